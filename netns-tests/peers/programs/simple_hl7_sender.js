// A sender with simple-hl7's client: PORT, then files of one message each; prints each answer in hex, or "failed".
const fs = require('fs')
const hl7 = require('simple-hl7')

const [port, ...files] = [Number(process.argv[2]), ...process.argv.slice(3)]
const parser = new hl7.Parser({ segmentSeperator: '\r' })
const client = hl7.Server.createTcpClient({ host: '127.0.0.1', port, keepalive: true })

function send (file) {
  return new Promise((resolve) => {
    setTimeout(() => resolve('failed'), 8000)
    client.send(parser.parse(fs.readFileSync(file, 'utf8')), (error, ack) => {
      resolve(error ? 'failed' : 'answer ' + Buffer.from(ack.toString()).toString('hex'))
    })
  })
}
async function main () {
  for (const file of files) {
    const line = await send(file)
    console.log(line)
    if (line === 'failed') break
  }
  process.exit(0)
}
process.on('uncaughtException', (error) => { console.error(String(error)); console.log('failed'); process.exit(0) })
main()
