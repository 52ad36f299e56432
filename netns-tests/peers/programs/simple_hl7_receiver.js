// A receiver with simple-hl7's server: PORT, and a file for what it read, one payload a line in hex.
const fs = require('fs')
const hl7 = require('simple-hl7')

const [port, record] = [Number(process.argv[2]), process.argv[3]]
const app = hl7.tcp()
app.use((request, response, next) => {
  const text = request.raw
  fs.appendFileSync(record, Buffer.from(text.substring(1, text.length - 2)).toString('hex') + '\n')
  next()
})
app.use((request, response) => response.end())
app.use((error, request, response, next) => console.error(String(error)))
process.on('uncaughtException', (error) => console.error(String(error)))
app.start(port)
