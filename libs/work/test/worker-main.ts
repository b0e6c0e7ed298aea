import { newId } from '@signalbox/contracts/ids';
import { openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { startWorker } from '../src/worker.ts';

// The process of worker-process.ts.
const [url = '', schema = '', leaseMs] = process.argv.slice(2);
const database = openDatabase({
  ...{ url, poolSize: 2, maxOverflow: 0, poolTimeoutMs: 3000, poolRecycleMs: 600_000 },
  ...{ applicationName: 'work-test-process', log: silentLog, metrics: silentMetrics },
});
const worker = startWorker({
  ...{ database, schema, owner: newId(), maxActive: 16, formats: [1], queueName: 'test' },
  ...{ leaseMs: Number(leaseMs), heartbeatMs: 200, log: silentLog, metrics: silentMetrics },
  run: async (item, lease) => void (await worker.queue.finish(database, item, lease, 'done')),
});
const ready = setInterval(() => {
  if (worker.detail().status !== 'ok') return;
  clearInterval(ready);
  process.send?.('ready');
}, 20);
