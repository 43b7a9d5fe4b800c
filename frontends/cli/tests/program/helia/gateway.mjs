// A gateway of raw blocks over a Helia node that has imported a directory.
//   node gateway.mjs DIRECTORY
// Prints the CID of the directory and the port on 127.0.0.1, and serves until it is killed.
import http from 'node:http'
import { createHeliaLight } from 'helia'
import { unixfs, globSource } from '@helia/unixfs'
import { CID } from 'multiformats/cid'

const node = createHeliaLight({})
await node.start()
let last
for await (const entry of unixfs(node).addAll(globSource(process.argv[2], '**/*', { hidden: true }), { wrapWithDirectory: true })) last = entry

async function block (cid) {
  // A store gives its bytes at once or in pieces.
  const found = await node.blockstore.get(cid, { offline: true })
  if (found instanceof Uint8Array) return found
  const pieces = []
  for await (const piece of found) pieces.push(piece)
  return Buffer.concat(pieces)
}

const server = http.createServer(async (request, answer) => {
  const url = new URL(request.url, 'http://localhost')
  const cid = url.pathname.match(/^\/ipfs\/([^/]+)$/)?.[1]
  try {
    const bytes = await block(CID.parse(cid))
    answer.writeHead(200, { 'content-type': 'application/vnd.ipld.raw', 'content-length': bytes.length }).end(bytes)
  } catch (error) {
    answer.writeHead(404, { 'content-type': 'text/plain' }).end(`${error}\n`)
  }
})
server.listen(0, '127.0.0.1', () => console.log(last.cid.toString(), server.address().port))
