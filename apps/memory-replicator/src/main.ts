import '@signalbox/telemetry/register';
import { databaseOptions } from '@signalbox/config/database-settings';
import { telemetryOptions } from '@signalbox/config/service-settings';
import { loadSettings } from '@signalbox/config/settings';
import { newId } from '@signalbox/contracts/ids';
import { prepareValidators } from '@signalbox/contracts/validate';
import { createServer, portOf } from '@signalbox/http/server';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { openMessaging } from '@signalbox/messaging/messaging';
import { answerUpkeep } from '@signalbox/messaging/upkeep';
import { openDatabase } from '@signalbox/postgres/database';
import { expectedMigrations } from '@signalbox/postgres/schema-version';
import { createBoard } from '@signalbox/readiness/board';
import { superviseService } from '@signalbox/telemetry/service';
import { startTelemetry } from '@signalbox/telemetry/telemetry';
import { answerQuestions } from './answer-questions.ts';
import { compactMemories } from './compact-memories.ts';
import { indexKeeper } from './keep-index.ts';
import { replicaStore } from './replica-store.ts';
import { serviceName } from './service-name.ts';
import { memoryReplicatorSettings } from './settings.ts';
import { takeWal } from './take-wal.ts';
import { watchIndex } from './watch-index.ts';

await runMain(async (lifecycle) => {
  const settings = loadSettings(serviceName, memoryReplicatorSettings);
  const instanceId = newId();
  const telemetry = startTelemetry({ ...telemetryOptions(settings), instanceId });
  const { log, metrics } = telemetry;
  const board = createBoard({ service: serviceName, version: settings.serviceVersion, log });
  const service = superviseService({ lifecycle, telemetry, board, settings });

  const database = openDatabase({
    ...databaseOptions(settings),
    applicationName: serviceName,
    log,
    metrics,
  });
  lifecycle.onStop({ name: 'database', phase: 'pools', run: () => database.close() });
  const messaging = openMessaging({
    ...{ settings, instanceId, service: serviceName, database, log, metrics, lifecycle },
    topics: ['memory.recall.results', 'jobs.results'],
  });
  const store = replicaStore(database, settings.recallCandidates);
  const index = indexKeeper(database, log);
  const indexLag = watchIndex(database, log, metrics);
  lifecycle.onStop({ name: 'index lag', phase: 'intake', run: () => indexLag.stop() });

  board.add({ name: 'database', required: true, probe: database.probe(expectedMigrations(serviceName)) });
  board.add({ name: 'kafka', required: true, timeoutMs: 2_000, probe: (signal) => messaging.probe(signal) });
  board.add({ name: 'index', required: false, probe: async () => indexLag.detail() });
  board.start();

  const server = createServer({ settings, log, telemetry, board, lifecycle });
  await server.listen(); // health answers while the rest starts
  prepareValidators(['memory.wal', 'memory.recall.requests', 'memory.recall.results']);
  const wal = messaging.consumeRaw({
    topic: 'memory.wal',
    group: serviceName,
    maxBatch: 2_000,
    handler: takeWal(store, index.wake),
  });
  metrics.gauge(
    'memory_wal_lag_seconds',
    {
      help: "Age of the oldest record of memory.wal that is not replicated, by the broker's time stamps; 0 when all are.",
    },
    wal.watchUnread(),
  );
  answerQuestions({ messaging, store, concurrency: settings.recallConcurrent, log, metrics });
  const tasks = { memory_compaction: compactMemories(database) };
  answerUpkeep({ messaging, service: serviceName, tasks, log, metrics });
  lifecycle.background('index', (signal) => index.run(signal));
  service.started({ port: portOf(server) });
});
