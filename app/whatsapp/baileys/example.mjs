// Example of a worker for one salon: node example.mjs 962302
// Requires a running Frontdesk (FRONTDESK_URL, WHATSAPP_API_TOKEN) and `npm install baileys@7.0.0-rc14`.
import makeWASocket, { Browsers, DisconnectReason } from 'baileys'
import { useFrontdeskAuthState } from './useFrontdeskAuthState.mjs'

// libsignal, a dependency of Baileys, prints whole sessions with private keys through these functions.
console.info = console.warn = () => {}

const company = process.argv[2]
const { FRONTDESK_URL: url = 'http://127.0.0.1:8000', WHATSAPP_API_TOKEN: token } = process.env

async function connect() {
  const { state, saveCreds, logout } = await useFrontdeskAuthState({ url, company, token })
  const sock = makeWASocket({ auth: state, browser: Browsers.ubuntu('Frontdesk') })

  // A failed save ends the process (unhandled rejection). The supervisor restarts it, and it continues from the
  // state stored in Frontdesk.
  sock.ev.on('creds.update', saveCreds)

  sock.ev.on('connection.update', async ({ connection, lastDisconnect, qr }) => {
    if (qr) console.log('Scan this with the salon’s phone:', qr)
    if (connection !== 'close') return
    const reason = lastDisconnect?.error?.output?.statusCode
    if (reason === DisconnectReason.loggedOut) await logout()
    if (reason === DisconnectReason.connectionReplaced) process.exit(1) // another worker has the session
    await connect()
  })

  sock.ev.on('messages.upsert', ({ messages }) => {
    for (const message of messages) console.log(message.key.remoteJid, message.message?.conversation)
  })
}

await connect()
