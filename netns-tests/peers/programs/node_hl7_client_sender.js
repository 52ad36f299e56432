// A sender with node-hl7-client: PORT, then files of one message each; prints each answer in hex, or "failed".
const fs = require('fs')
const { Client, Message } = require('node-hl7-client')

const [port, ...files] = [Number(process.argv[2]), ...process.argv.slice(3)]
const client = new Client({ host: '127.0.0.1' })
let answered = () => {}
const connection = client.createConnection({ port, waitAck: true }, async (response) => {
  answered(response.getMessage().toString())
})
connection.on('error', (error) => console.error(String(error)))
connection.on('client.error', (error) => console.error(String(error)))

async function main () {
  for (const file of files) {
    const answer = new Promise((resolve) => { answered = resolve })
    const late = new Promise((resolve) => setTimeout(resolve, 8000))
    await Promise.race([connection.sendMessage(new Message({ text: fs.readFileSync(file, 'utf8') })), late])
    const text = await Promise.race([answer, late])
    console.log(text === undefined ? 'failed' : 'answer ' + Buffer.from(text).toString('hex'))
    if (text === undefined) break
  }
  process.exit(0)
}
main().catch((error) => { console.error(String(error)); console.log('failed'); process.exit(0) })
