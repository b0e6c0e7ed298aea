import { databaseOptions } from '@signalbox/config/database-settings';
import { telemetryOptions } from '@signalbox/config/service-settings';
import { loadSettings } from '@signalbox/config/settings';
import { newId } from '@signalbox/contracts/ids';
import { prepareValidators } from '@signalbox/contracts/validate';
import { createServer, portOf } from '@signalbox/http/server';
import { createGuardedFetch } from '@signalbox/http-client/guarded-fetch';
import type { Lifecycle } from '@signalbox/lifecycle/lifecycle';
import { openMessaging } from '@signalbox/messaging/messaging';
import { answerUpkeep } from '@signalbox/messaging/upkeep';
import { openDatabase } from '@signalbox/postgres/database';
import { expectedMigrations } from '@signalbox/postgres/schema-version';
import { createBoard } from '@signalbox/readiness/board';
import { diskProbe } from '@signalbox/readiness/disk-probe';
import { superviseService } from '@signalbox/telemetry/service';
import { startTelemetry } from '@signalbox/telemetry/telemetry';
import { workQueue } from '@signalbox/work/queue';
import { startWorker } from '@signalbox/work/worker';
import { endExpired } from './end-expired.ts';
import type { Handler } from './handlers/handler.ts';
import { hostBreakers } from './host-breakers.ts';
import { openedTasks } from './opened-tasks.ts';
import { taskWork } from './run-task.ts';
import { serviceName } from './service-name.ts';
import { delegationWorkerSettings } from './settings.ts';
import { isForUs, takeChildUpdates, takeTurnResults } from './take-outcomes.ts';
import { takeTasks } from './take-tasks.ts';
import { webhookFormats } from './task-messages.ts';
import { taskMetrics } from './task-metrics.ts';
import { payloadFormats } from './task-payload.ts';
import { taskStore } from './task-store.ts';
import { upkeepTasks } from './upkeep-tasks.ts';
import { webhookStore } from './webhook-store.ts';
import { webhookRetry, webhookWork } from './work-webhooks.ts';

/** Bound of what a webhook's receiver answers; nobody reads it. */
const maxAnswerBytes = 65_536;

/** Starts the service with these handlers. */
export async function delegationWorker(lifecycle: Lifecycle, handlers: readonly Handler[]): Promise<void> {
  const settings = loadSettings(serviceName, delegationWorkerSettings);
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
    settings,
    instanceId,
    service: serviceName,
    database,
    log,
    metrics,
    lifecycle,
    topics: ['delegation.tasks', 'delegation.updates', 'conversation.inbound', 'ui.notifications'],
  });
  const { outbox } = messaging;
  const counts = taskMetrics(metrics);
  const common = { database, owner: instanceId, leaseMs: settings.leaseMs, metrics };

  const store = taskStore(database, outbox);
  const opened = openedTasks();
  const queue = workQueue(database, 'delegation_worker');
  const worker = startWorker({
    ...common,
    ...taskWork({
      store,
      handlers: new Map(handlers.map((handler) => [handler.name, handler])),
      opened,
      fail: (item, lease, why) => queue.finish(database, item, lease, 'failed', why),
      onWebhooks: () => webhooks.wake(),
      maxDepth: settings.maxDepth,
      maxOpenChildren: settings.maxOpenChildren,
      maxTaskMs: settings.maxTaskMs,
      log,
      metrics: counts,
    }),
    schema: 'delegation_worker',
    maxActive: settings.maxConcurrent,
    // What runs goes on: its updates are rows, which a relay sends. A webhook needs no broker at all.
    needs: {
      name: 'kafka',
      waitingMs: () => messaging.producer.waitingMs,
      probe: () => messaging.checkCluster(),
    },
    formats: payloadFormats,
    retry: {
      baseDelayMs: 500,
      maxDelayMs: 60_000,
      maxRetries: settings.maxRetries,
      maxAgeMs: settings.maxTaskMs,
    },
    log,
    queueName: 'tasks',
  });

  const breakers = hostBreakers({ timeoutMs: settings.webhookTimeoutMs + 1_000, log, metrics });
  lifecycle.onStop({ name: 'breakers', phase: 'clients', run: async () => breakers.close() });
  const webhookQueue = workQueue(database, 'delegation_webhooks');
  const webhooks = startWorker({
    ...common,
    ...webhookWork({
      store: webhookStore(database, outbox),
      fetch: createGuardedFetch({
        allowedHosts: settings.webhookAllowedHosts,
        timeoutMs: settings.webhookTimeoutMs,
        idleTimeoutMs: settings.webhookTimeoutMs,
        maxResponseBytes: maxAnswerBytes,
      }),
      breakers,
      signingSecret: settings.webhookSigningSecret,
      fail: (item, lease, why) => webhookQueue.finish(database, item, lease, 'failed', why),
      log,
      metrics: counts,
    }),
    schema: 'delegation_webhooks',
    maxActive: settings.webhookMaxConcurrent,
    formats: webhookFormats,
    retry: webhookRetry,
    log: log.child({ queue: 'webhooks' }),
    queueName: 'webhooks',
  });

  const endMs = Math.round(settings.shutdownTimeoutMs * (2 / 3)); // the rest of the stop needs its time too
  for (const [name, each] of Object.entries({ worker, webhooks })) {
    lifecycle.onStop({
      name,
      // From the begin on, so that nothing is claimed while the consumers leave their groups.
      phase: 'intake',
      timeoutMs: endMs + 4_000,
      run: () => each.stop(AbortSignal.timeout(endMs)),
    });
  }

  board.add({ name: 'database', required: true, probe: database.probe(expectedMigrations(serviceName)) });
  board.add({ name: 'kafka', required: true, timeoutMs: 2_000, probe: (signal) => messaging.probe(signal) });
  board.add({
    name: 'disk',
    required: false,
    intervalMs: 30_000,
    probe: diskProbe({ folders: [settings.dataDir], minFreeMb: settings.diskFreeMinMb }),
  });
  board.add({ name: 'outbox', required: false, probe: async () => messaging.outboxDetail() });
  board.add({ name: 'worker_pool', required: false, probe: async () => ({ ...worker.detail() }) });
  board.add({ name: 'webhooks', required: false, probe: async () => ({ ...webhooks.detail() }) });
  board.start();

  const server = createServer({ settings, log, telemetry, board, lifecycle });
  await server.listen(); // health answers while the rest starts
  prepareValidators(['delegation.tasks', 'delegation.updates', 'turn.results']);
  const taking = { worker, store, log, metrics: counts, onWebhooks: () => webhooks.wake() };
  const onCommitted = () => worker.wake();
  messaging.consume({
    topic: 'delegation.tasks',
    group: serviceName,
    inbox: 'own-row',
    handler: takeTasks({ ...taking, opened, maxTaskMs: settings.maxTaskMs }),
    onCommitted,
  });
  const results = { group: serviceName, inbox: 'own-row' as const, accepts: isForUs, onCommitted };
  messaging.consume({ ...results, topic: 'turn.results', handler: takeTurnResults(taking) });
  messaging.consume({ ...results, topic: 'delegation.updates', handler: takeChildUpdates(taking) });
  answerUpkeep({
    ...{ messaging, service: serviceName, log, metrics },
    tasks: upkeepTasks(store, worker.queue, webhooks.queue),
  });
  lifecycle.background('deadlines', (signal) => endExpired({ ...taking, database, outbox }, signal));
  service.started({ port: portOf(server) });
}
