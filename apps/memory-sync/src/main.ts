import '@signalbox/telemetry/register';
import { databaseOptions } from '@signalbox/config/database-settings';
import { telemetryOptions } from '@signalbox/config/service-settings';
import { loadSettings } from '@signalbox/config/settings';
import { newId } from '@signalbox/contracts/ids';
import { prepareValidators } from '@signalbox/contracts/validate';
import { createServer, portOf } from '@signalbox/http/server';
import { createBoundedFetch } from '@signalbox/http-client/bounded-fetch';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { openMessaging } from '@signalbox/messaging/messaging';
import { answerUpkeep } from '@signalbox/messaging/upkeep';
import { openDatabase } from '@signalbox/postgres/database';
import { expectedMigrations } from '@signalbox/postgres/schema-version';
import { createBoard } from '@signalbox/readiness/board';
import { superviseService } from '@signalbox/telemetry/service';
import { startTelemetry } from '@signalbox/telemetry/telemetry';
import { startWorker, type Worker } from '@signalbox/work/worker';
import { watchBacklog } from './backlog.ts';
import { memoryBackend } from './memory-backend.ts';
import { memoryStore } from './memory-store.ts';
import { pushMemories } from './push-memories.ts';
import { pushFormats } from './push-row.ts';
import { serviceName } from './service-name.ts';
import { memorySyncSettings } from './settings.ts';
import { takeWrites } from './take-writes.ts';
import { upkeepTasks } from './upkeep.ts';

await runMain(async (lifecycle) => {
  const settings = loadSettings(serviceName, memorySyncSettings);
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
    topics: ['memory.wal', 'ui.notifications'],
  });
  const http = createBoundedFetch({
    maxConnections: settings.httpClientMaxConnections,
    idleTimeoutMs: settings.memoryBackendTimeoutMs,
  });
  const { memoryBackendUrl: baseUrl, memoryBackendApiKey: apiKey } = settings;
  const backend =
    baseUrl === undefined
      ? undefined
      : memoryBackend({ baseUrl, apiKey, timeoutMs: settings.memoryBackendTimeoutMs, http, log, metrics });
  lifecycle.onStop({
    name: 'memory backend',
    phase: 'clients',
    run() {
      backend?.close();
      http.close();
    },
  });

  const store = memoryStore(database, messaging.outbox);
  // Also without a backend: what waited for one that is named no more goes on.
  const worker: Worker = startWorker({
    ...pushMemories({
      ...{ database, store, backend, log, metrics },
      queue: () => worker.queue,
      retryMinMs: settings.retryMinMs,
    }),
    ...{ database, owner: instanceId, log, metrics },
    schema: 'memory_sync',
    queueName: 'memory_pushes',
    maxActive: settings.maxConcurrent,
    leaseMs: settings.leaseMs,
    formats: pushFormats,
    retry: {
      baseDelayMs: settings.retryMinMs,
      maxDelayMs: settings.retryMaxMs,
      maxRetries: settings.maxTries - 1,
      maxAgeMs: Number.POSITIVE_INFINITY, // nobody stops waiting for a memory
    },
  });
  const pushesEndMs = Math.round(settings.shutdownTimeoutMs * (2 / 3)); // the rest of the stop needs its time too
  lifecycle.onStop({
    name: 'pushes',
    // From the begin on, so that nothing is claimed while the consumer leaves its group.
    phase: 'intake',
    timeoutMs: pushesEndMs + 4_000,
    run: () => worker.stop(AbortSignal.timeout(pushesEndMs)),
  });
  const backlog = watchBacklog(store, log, metrics);
  lifecycle.onStop({ name: 'backlog', phase: 'intake', run: () => backlog.stop() });

  board.add({ name: 'database', required: true, probe: database.probe(expectedMigrations(serviceName)) });
  board.add({ name: 'kafka', required: true, timeoutMs: 2_000, probe: (signal) => messaging.probe(signal) });
  board.add({ name: 'outbox', required: false, probe: async () => messaging.outboxDetail() });
  board.add({ name: 'worker_pool', required: false, probe: async () => ({ ...worker.detail() }) });
  board.add({
    name: 'memory_backend',
    required: false,
    probe: async () => ({
      status: backend === undefined || backend.state === 'closed' ? 'ok' : 'degraded',
      breaker: backend?.state ?? 'none',
      ...backlog.current(),
    }),
  });
  board.start();

  const server = createServer({ settings, log, telemetry, board, lifecycle });
  await server.listen(); // health answers while the rest starts
  prepareValidators(['memory.writes', 'memory.wal']);
  messaging.consume({
    topic: 'memory.writes',
    group: serviceName,
    inbox: 'own-row',
    handler: takeWrites({ store, worker: backend === undefined ? undefined : worker, log }),
    ...(backend === undefined ? {} : { onCommitted: () => worker.wake() }),
  });
  const tasks = upkeepTasks(store, worker.queue);
  answerUpkeep({ messaging, service: serviceName, tasks, log, metrics });
  service.started({ port: portOf(server) });
});
