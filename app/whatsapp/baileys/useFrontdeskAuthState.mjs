// Baileys' authentication state, kept by Frontdesk. Copy this file into the worker; it needs Node.js 20 and
// Baileys 7, nothing else. What cannot be read or written is thrown, and never taken for "missing".
import { randomUUID } from 'node:crypto'
import { BufferJSON, initAuthCreds, proto } from 'baileys'

// Only what Frontdesk writes for a buffer. BufferJSON's own reviver would also take {"5": 1} for one.
const isBuffer = value => value?.type === 'Buffer' && typeof value.data === 'string' && Object.keys(value).length === 2
const revive = (_, value) => (isBuffer(value) ? Buffer.from(value.data, 'base64') : value)

const write = value => JSON.stringify(value, BufferJSON.replacer)

export class FrontdeskError extends Error {
  constructor(status, { code = 'unexpected', message = `HTTP ${status}`, retryable = false } = {}) {
    super(`Frontdesk: ${message}`)
    Object.assign(this, { name: 'FrontdeskError', status, code, retryable })
  }
}

// `company`: the salon's YClients id; `token`: WHATSAPP_API_TOKEN; `worker`: a name that no other process
// has, because two that hold one session are told apart by it; `timeout`: of a request, in milliseconds.
export async function useFrontdeskAuthState({ url, company, token, worker = randomUUID(), timeout = 15_000 }) {
  const base = `${url.replace(/\/+$/, '')}/whatsapp/${encodeURIComponent(company)}`
  const headers = { 'Content-Type': 'application/json', 'Frontdesk-Worker': worker }
  if (token) headers.Authorization = `Bearer ${token}`

  async function call(method, path, body, more) {
    const send = () =>
      fetch(base + path, { method, body, headers: { ...headers, ...more }, signal: AbortSignal.timeout(timeout) })
    // A kept-alive connection may be closed just now. Every request here may be made twice.
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
  let sent // the last credentials on their way
  let saving = Promise.resolve()

  async function save() {
    const attempts = [sent, (sent = write(creds))]
    try {
      version = (await call('PUT', '/creds', sent, { 'If-Match': String(version) })).version
    } catch (error) {
      if (error.status !== 412) throw error
      // Perhaps it was we who won, and the answer was lost.
      const stored = await call('GET', '/creds')
      if (!attempts.includes(write(stored.creds))) throw error
      version = stored.version
      if (write(stored.creds) !== write(creds)) await save()
    }
  }

  // Baileys takes a session that could not be read for none, and would write a new one over it.
  const unread = new Set()
  const refused = new WeakSet() // Baileys tries the same write again

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
        await keys.get(type, blind) // from now on it may be written
      }
      if (refused.has(data)) throw new FrontdeskError(0, { message: 'a key was written that had not been read' })
      await call('POST', '/keys/set', write(data))
    }
  }

  return {
    state: { creds, keys },
    saveCreds: () => (saving = saving.catch(() => {}).then(save)), // one after the other
    release: () => call('DELETE', '/lease'), // when the worker stops in peace
    logout: () => call('DELETE', '') // credentials and keys are gone
  }
}
