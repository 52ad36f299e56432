// A receiver with node-hl7-server: PORT, and a file for what it read, one payload a line in hex.
const fs = require('fs')
const { Server } = require('node-hl7-server')

const [port, record] = [Number(process.argv[2]), process.argv[3]]
const server = new Server({ bindAddress: '127.0.0.1' })
const inbound = server.createInbound({ port }, async (request, response) => response.sendResponse('AA'))
inbound.on('data.raw', (text) => fs.appendFileSync(record, Buffer.from(text).toString('hex') + '\n'))
inbound.on('data.error', (error) => console.error(String(error)))
inbound.on('error', (error) => console.error(String(error)))
