import { loadSettings } from '@signalbox/config/settings';
import { newId } from '@signalbox/contracts/ids';
import { armFailPoint } from '@signalbox/lifecycle/fail-point';
import { pause } from '@signalbox/lifecycle/pause';
import { openMessaging } from '@signalbox/messaging/messaging';
import { openDatabase, type Transaction } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { outboxSyncSettings } from '../src/settings.ts';

// A process that writes to a few sessions until it is killed, and says after each commit how far it is. It takes a breath
// between two of them: tests run several beside each other.
const settings = loadSettings('outbox-sync', outboxSyncSettings);
armFailPoint(settings.failPoint);
const database = openDatabase({
  url: settings.databaseUrl,
  poolSize: 4,
  maxOverflow: 0,
  poolTimeoutMs: 5_000,
  poolRecycleMs: 600_000,
  applicationName: 'writer',
  log: silentLog,
  metrics: silentMetrics,
});
const messaging = openMessaging({
  settings,
  instanceId: newId(),
  service: 'writer',
  database,
  log: silentLog,
  metrics: silentMetrics,
});
const sessions = (process.argv[2] ?? '').split(',');

/** A commit whose answer is lost, or that meets a lock of a writer that stands still, is tried as another one. */
async function committed(work: (tx: Transaction) => Promise<void>): Promise<void> {
  for (;;) {
    try {
      return await database.transaction(work, { timeoutMs: 5_000 });
    } catch {
      await pause(20);
    }
  }
}

await Promise.all(
  sessions.map(async (session) => {
    for (let n = 1; n < 100_000; n += 1) {
      await committed((tx) =>
        messaging.outbox.put(tx, [
          {
            topic: 'conversation.inbound',
            key: `acme:${session}`,
            tenant: 'acme',
            eventType: 'message.posted',
            schema: 'conversation.inbound.v1',
            eventId: newId(),
            sessionId: session,
            value: { n },
          },
        ]),
      );
      process.stdout.write(`${JSON.stringify({ event: 'committed', session, n })}\n`);
      await pause(5);
    }
  }),
);
