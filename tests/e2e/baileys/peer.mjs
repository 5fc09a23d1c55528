// A WhatsApp device without a connection to WhatsApp: real Baileys with its state in Frontdesk. It reads commands
// from stdin as JSON, one per line, and writes one line of JSON per command: {"ok": …} or {"error": …}.
import assert from 'node:assert/strict'
import { createInterface } from 'node:readline'
import { addTransactionCapability, generateSignalPubKey, proto, useMultiFileAuthState } from 'baileys'
import { makeLibSignalRepository } from 'baileys/lib/Signal/libsignal.js'
import { getNextPreKeys } from 'baileys/lib/Utils/signal.js'
import { useFrontdeskAuthState } from './useFrontdeskAuthState.mjs'

const quiet = () => {}
console.log = console.info = console.warn = console.error = quiet // libsignal prints whole sessions with private keys
const logger = { trace: quiet, debug: quiet, info: quiet, warn: quiet, error: quiet }
const base64 = bytes => Buffer.from(bytes).toString('base64')
const bytes = text => Buffer.from(text, 'base64')

let options // url, company and token of the first `open`
let session
async function open(given) {
  if (given.url) options = given
  const { state, saveCreds, ...rest } = await useFrontdeskAuthState(options)
  const keys = addTransactionCapability(state.keys, logger, { maxCommitRetries: 2, delayBetweenTriesMs: 10 })
  const signal = makeLibSignalRepository({ creds: state.creds, keys }, logger)
  session = { creds: state.creds, raw: state.keys, keys, signal, saveCreds, ...rest }
  await saveCreds() // pairing saves the credentials, too
  return { registrationId: state.creds.registrationId }
}

const values = () => {
  const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i))
  return {
    'pre-key': { 1: { private: all.subarray(0, 32), public: all.subarray(32, 64) } },
    session: { '79680000001.0': { _sessions: { key: { registrationId: 1, chains: { 0: 'b64', 1: 'b64' } } }, version: 'v1' } },
    'sender-key': { '1@g.us::7968::0': all },
    'sender-key-memory': { '1@g.us': { '7968:1@s.whatsapp.net': true, '7969@lid': false } },
    'app-state-sync-version': { regular: { version: 3, hash: Buffer.alloc(128, 7), indexValueMap: { 'a+/=': { valueMac: all } } } },
    'lid-mapping': { 7968: '123', '123_reverse': '7968' },
    'device-list': { 7968: ['0', '1', '99'] },
    tctoken: { '7968@lid': { token: Buffer.alloc(0), timestamp: '1700000000' } },
    'identity-key': { '7968.0': Buffer.from([5, ...all.subarray(0, 32)]) },
    'an unknown type': { "'; --": [null, 1.5, -1e-9, '\u0000', '\ud83d', 'ы', { 5: 1, 7: 2 }, { deep: [{ er: all }] }, {}, []] }
  }
}

async function assertSame(written) {
  for (const [type, byId] of Object.entries(written)) {
    const read = await session.raw.get(type, [...Object.keys(byId), 'missing'])
    assert.deepStrictEqual(read, byId, type)
  }
}

const commands = {
  open,
  // Return new pre-keys in the form that WhatsApp's server publishes: with public keys only.
  async bundles({ count }) {
    const { update, preKeys } = await getNextPreKeys({ creds: session.creds, keys: session.keys }, count)
    Object.assign(session.creds, update)
    await session.saveCreds()
    const { registrationId, signedIdentityKey, signedPreKey } = session.creds
    return Object.entries(preKeys).map(([id, pair]) => ({
      registrationId,
      identityKey: base64(generateSignalPubKey(signedIdentityKey.public)),
      signedPreKey: {
        keyId: signedPreKey.keyId,
        publicKey: base64(generateSignalPubKey(signedPreKey.keyPair.public)),
        signature: base64(signedPreKey.signature)
      },
      preKey: { keyId: Number(id), publicKey: base64(generateSignalPubKey(pair.public)) }
    }))
  },
  async meet({ jid, bundle }) {
    const { registrationId, identityKey, signedPreKey, preKey } = bundle
    await session.signal.injectE2ESession({
      jid,
      session: {
        registrationId,
        identityKey: bytes(identityKey),
        signedPreKey: {
          keyId: signedPreKey.keyId,
          publicKey: bytes(signedPreKey.publicKey),
          signature: bytes(signedPreKey.signature)
        },
        preKey: { keyId: preKey.keyId, publicKey: bytes(preKey.publicKey) }
      }
    })
  },
  async encrypt({ jid, text }) {
    const { type, ciphertext } = await session.signal.encryptMessage({ jid, data: Buffer.from(text) })
    return { type, ciphertext: base64(ciphertext) }
  },
  async decrypt({ jid, type, ciphertext }) {
    return String(await session.signal.decryptMessage({ jid, type, ciphertext: bytes(ciphertext) }))
  },
  async encryptForGroup({ group, me, text }) {
    const found = await session.signal.encryptGroupMessage({ group, meId: me, data: Buffer.from(text) })
    return { key: base64(found.senderKeyDistributionMessage), ciphertext: base64(found.ciphertext) }
  },
  async decryptFromGroup({ group, jid, key, ciphertext }) {
    const item = { groupId: group, axolotlSenderKeyDistributionMessage: bytes(key) }
    if (key) await session.signal.processSenderKeyDistributionMessage({ item, authorJid: jid })
    return String(await session.signal.decryptGroupMessage({ group, authorJid: jid, msg: bytes(ciphertext) }))
  },
  async roundTrip() {
    const written = values()
    await session.raw.set(written)
    await assertSame(written)
    const key = { keyData: Buffer.alloc(32, 9), fingerprint: { rawId: 1, currentIndex: 2, deviceIndexes: [0] }, timestamp: 5 }
    await session.raw.set({ 'app-state-sync-key': { 'AAAA/+=': proto.Message.AppStateSyncKeyData.fromObject(key) } })
    const { 'AAAA/+=': read } = await session.raw.get('app-state-sync-key', ['AAAA/+='])
    assert.ok(Buffer.from(read.keyData).equals(key.keyData))
    assert.equal(read.fingerprint.rawId, 1)
    const before = JSON.stringify(session.creds)
    await session.saveCreds()
    await open({})
    assert.equal(JSON.stringify(session.creds), before)
    assert.ok(Buffer.isBuffer(session.creds.noiseKey.private))
  },
  // Write the same session to files, in the format of Baileys' own useMultiFileAuthState.
  async writeFiles({ folder }) {
    const { state, saveCreds } = await useMultiFileAuthState(folder)
    Object.assign(state.creds, session.creds)
    await saveCreds()
    const { 'an unknown type': _, ...known } = values()
    await state.keys.set(known)
  },
  async assertSameAsFiles({ folder }) {
    const { 'an unknown type': _, ...known } = values()
    await assertSame(known)
    const { state } = await useMultiFileAuthState(folder)
    assert.deepStrictEqual(session.creds, state.creds)
  },
  async transaction({ mutations }) {
    await session.keys.transaction(() => session.keys.set(mutations), 'all')
  },
  get: ({ type, ids }) => session.raw.get(type, ids),
  async saveOften({ times }) {
    const saves = []
    for (let i = 0; i < times; i++) {
      session.creds.accountSyncCounter += 1
      saves.push(session.saveCreds())
    }
    await Promise.all(saves)
    return session.creds.accountSyncCounter
  },
  release: () => session.release(),
  logout: () => session.logout()
}

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...rest } = JSON.parse(line)
  let answer
  try {
    answer = { ok: (await commands[command](rest)) ?? null }
  } catch (error) {
    answer = { error: { name: error.name, message: error.message, code: error.code, status: error.status } }
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
}
