// Authentication state for Baileys, stored in Frontdesk. Copy this file into the worker. It requires only Node.js 20
// and Baileys 7. Every failed read or write throws an error; it is never treated as a missing value.
import { randomUUID } from 'node:crypto'
import { BufferJSON, initAuthCreds, proto } from 'baileys'

// Convert only Frontdesk's own form of a buffer. BufferJSON.reviver would also convert objects such as {"5": 1}.
const isBuffer = value => value?.type === 'Buffer' && typeof value.data === 'string' && Object.keys(value).length === 2
const revive = (_, value) => (isBuffer(value) ? Buffer.from(value.data, 'base64') : value)

const write = value => JSON.stringify(value, BufferJSON.replacer)

export class FrontdeskError extends Error {
  constructor(status, { code = 'unexpected', message = `HTTP ${status}`, retryable = false } = {}) {
    super(`Frontdesk: ${message}`)
    Object.assign(this, { name: 'FrontdeskError', status, code, retryable })
  }
}

// `company`: the salon's YClients id; `token`: WHATSAPP_API_TOKEN; `worker`: a unique name of this process, by which
// Frontdesk detects two workers on one session; `timeout`: of a request, in milliseconds.
export async function useFrontdeskAuthState({ url, company, token, worker = randomUUID(), timeout = 15_000 }) {
  const base = `${url.replace(/\/+$/, '')}/whatsapp/${encodeURIComponent(company)}`
  const headers = { 'Content-Type': 'application/json', 'Frontdesk-Worker': worker }
  if (token) headers.Authorization = `Bearer ${token}`

  async function call(method, path, body, more) {
    const send = () =>
      fetch(base + path, { method, body, headers: { ...headers, ...more }, signal: AbortSignal.timeout(timeout) })
    // The server may close an idle connection while a request is sent. Retry once: all requests are idempotent.
    const response = await send().catch(error => (error.name === 'TimeoutError' ? Promise.reject(error) : send()))
    const text = await response.text()
    if (response.ok) return text ? JSON.parse(text, revive) : undefined
    throw new FrontdeskError(response.status, text.startsWith('{') ? JSON.parse(text).error : undefined)
  }

  async function open() {
    await call('PUT', '/lease')
    try {
      return await call('GET', '/creds')
    } catch (error) {
      if (error.code !== 'no_credentials') throw error
      return { creds: initAuthCreds(), version: '*' }
    }
  }

  let { creds, version } = await open()
  let sent // the credentials of the last request, as JSON
  let saving = Promise.resolve()

  async function save() {
    const attempts = [sent, (sent = write(creds))]
    try {
      version = (await call('PUT', '/creds', sent, { 'If-Match': String(version) })).version
    } catch (error) {
      if (error.status !== 412) throw error
      // Perhaps an earlier request of this worker succeeded, and its response was lost.
      const stored = await call('GET', '/creds')
      if (!attempts.includes(write(stored.creds))) throw error
      version = stored.version
      if (write(stored.creds) !== write(creds)) await save()
    }
  }

  // If a read fails, Baileys assumes that the session does not exist, and would overwrite it with a new one.
  const unread = new Set() // "type id" of keys whose last read failed
  const refused = new WeakSet() // rejected writes, which stay rejected because Baileys retries the same object

  const keys = {
    async get(type, ids) {
      try {
        const found = await call('POST', '/keys/get', write({ type, ids }))
        for (const id of ids) unread.delete(`${type} ${id}`)
        if (type === 'app-state-sync-key')
          for (const id in found) found[id] = proto.Message.AppStateSyncKeyData.fromObject(found[id])
        return found
      } catch (error) {
        for (const id of ids) unread.add(`${type} ${id}`)
        throw error
      }
    },
    async set(data) {
      for (const type in data) {
        const blind = Object.keys(data[type]).filter(id => unread.has(`${type} ${id}`))
        if (!blind.length) continue
        refused.add(data)
        await keys.get(type, blind) // a successful read allows later writes
      }
      if (refused.has(data)) throw new FrontdeskError(0, { message: 'a key was written whose value had not been read' })
      await call('POST', '/keys/set', write(data))
    }
  }

  return {
    state: { creds, keys },
    saveCreds: () => (saving = saving.catch(() => {}).then(save)), // saves are serialised
    release: () => call('DELETE', '/lease'), // call this when the worker stops normally
    logout: () => call('DELETE', '') // delete credentials and keys
  }
}
