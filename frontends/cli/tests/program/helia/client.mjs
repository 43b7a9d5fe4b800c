// Reads content through a gateway as others' programs do, and prints the length and SHA-256 of each part.
//   node client.mjs GATEWAY '[["helia"|"verified-fetch"|"list", CID, PATH, FROM|null, TO|null], ...]'
// Every block is verified by the libraries; ends with status 1 where one of them complains. FROM and TO are bytes, TO not included.
import crypto from 'node:crypto'
import { createHeliaLight } from 'helia'
import { createVerifiedFetchWithHelia } from '@helia/verified-fetch'
import { fallbackRouter } from '@helia/fallback-router'
import { trustlessGateway } from '@helia/block-brokers'
import { unixfs } from '@helia/unixfs'
import { CID } from 'multiformats/cid'

const [gateway, parts] = process.argv.slice(2)
const node = createHeliaLight({})
const router = fallbackRouter({ gateways: [gateway] })
// With routers alone that are for when nothing else is left it would wait for ever.
router.capabilities = () => []
node.addRouter(router)
node.addBlockBroker(trustlessGateway({ allowLocal: true, allowInsecure: true }))
await node.start()
const files = unixfs(node)
const fetcher = await createVerifiedFetchWithHelia(node)

async function tell (pieces) {
  const hash = crypto.createHash('sha256')
  let length = 0
  for await (const piece of pieces) { hash.update(piece); length += piece.length }
  console.log(length, hash.digest('hex'))
}

for (const [client, cid, path, from, to] of JSON.parse(parts)) {
  if (client === 'list') {
    const names = []
    for await (const entry of files.ls(CID.parse(cid), path ? { path } : {})) names.push(entry.name)
    await tell([Buffer.from(names.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))).join('\n'))])
  } else if (client === 'helia') {
    const range = from === null ? {} : { offset: BigInt(from), length: BigInt(to - from) }
    await tell(files.cat(CID.parse(cid), { ...range, ...(path ? { path } : {}) }))
  } else {
    const headers = from === null ? {} : { range: `bytes=${from}-${to - 1}` }
    const url = `ipfs://${cid}${path.split('/').filter(part => part).map(part => '/' + encodeURIComponent(part)).join('')}`
    const answer = await fetcher(url, { headers })
    if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`)
    await tell(answer.body)
  }
}
process.exit(0)
