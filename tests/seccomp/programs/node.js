// Processes, files by libuv's threads, a worker, a server.
const { execFileSync } = require('child_process')
const { Worker } = require('worker_threads')
const fs = require('fs')
const http = require('http')
const os = require('os')

async function main() {
  console.log(execFileSync('echo', ['child']).toString().trim(), typeof os.networkInterfaces())
  fs.mkdirSync('n')
  await fs.promises.writeFile('n/f', 'x')
  await fs.promises.copyFile('n/f', 'n/g')
  console.log((await fs.promises.readFile('n/g')).toString(), await fs.promises.readdir('n'))
  const worker = new Worker("require('worker_threads').parentPort.postMessage('worker')", { eval: true })
  worker.on('message', (message) => {
    console.log(message)
    const server = http.createServer((_, response) => response.end('served'))
    server.listen(0, '127.0.0.1', () => {
      http.get({ port: server.address().port, host: '127.0.0.1', agent: false }, (response) => {
        response.on('data', (data) => console.log(data.toString()))
        response.on('end', () => server.close())
      })
    })
  })
}
main()
