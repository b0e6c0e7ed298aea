import '@signalbox/telemetry/register';
import { databaseOptions } from '@signalbox/config/database-settings';
import { environmentSecrets, fileSecrets } from '@signalbox/config/secrets';
import { telemetryOptions } from '@signalbox/config/service-settings';
import { loadSettings } from '@signalbox/config/settings';
import { processSources } from '@signalbox/config/sources';
import { newId } from '@signalbox/contracts/ids';
import { prepareValidators } from '@signalbox/contracts/validate';
import { createServer } from '@signalbox/http/server';
import { createBoundedFetch } from '@signalbox/http-client/bounded-fetch';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { openAsker } from '@signalbox/messaging/asker';
import { openMessaging } from '@signalbox/messaging/messaging';
import { answerUpkeep } from '@signalbox/messaging/upkeep';
import { openDatabase } from '@signalbox/postgres/database';
import { expectedMigrations } from '@signalbox/postgres/schema-version';
import { createBoard } from '@signalbox/readiness/board';
import { diskProbe } from '@signalbox/readiness/disk-probe';
import { superviseService } from '@signalbox/telemetry/service';
import { startTelemetry } from '@signalbox/telemetry/telemetry';
import { startWorker, type WorkItem } from '@signalbox/work/worker';
import { endWaits } from './end-waits.ts';
import { intakeStore, turnFormats } from './intake-store.ts';
import { Models } from './models.ts';
import type { OpenedTurn } from './opened-turn.ts';
import { openRecaller, type Recaller } from './recall.ts';
import { turnRunner } from './run-turn.ts';
import { workerSettings } from './settings.ts';
import { subscribe } from './subscriptions.ts';
import { turnMetrics } from './turn-metrics.ts';
import { turnStore } from './turn-store.ts';
import { upkeepTasks } from './upkeep-tasks.ts';

const service = 'conversation-worker';

await runMain(async (lifecycle) => {
  const settings = loadSettings(service, workerSettings);
  const owner = newId();
  const telemetry = startTelemetry({ ...telemetryOptions(settings), instanceId: owner });
  const { log, metrics } = telemetry;
  const board = createBoard({ service, version: settings.serviceVersion, log });
  const start = superviseService({ lifecycle, telemetry, board, settings });

  const database = openDatabase({
    ...databaseOptions(settings),
    applicationName: service,
    log,
    metrics,
  });
  lifecycle.onStop({ name: 'database', phase: 'pools', timeoutMs: 6_000, run: () => database.close() });
  const messaging = openMessaging({
    ...{ settings, instanceId: owner, service, database, log, metrics, lifecycle },
    topics: [
      'conversation.outbound',
      'tool.requests',
      'delegation.tasks',
      'turn.results',
      'memory.recall.requests',
      'memory.writes',
      'jobs.results',
    ],
  });
  const recaller = openRecaller({
    asker: openAsker({
      ...{ messaging, service, log, metrics },
      ...{ requests: 'memory.recall.requests', results: 'memory.recall.results' },
    }),
    ...{ deadlineMs: settings.recallDeadlineMs, maxTokens: settings.recallMaxTokens, log, metrics },
  });
  const http = createBoundedFetch({
    maxConnections: settings.httpClientMaxConnections,
    idleTimeoutMs: settings.modelIdleTimeoutMs,
  });
  const models = new Models({
    defaults: {
      provider: settings.modelProvider,
      model: settings.modelName,
      baseUrl: settings.modelBaseUrl ?? '',
      apiKey: settings.modelApiKey ?? '',
    },
    http,
    secrets: [environmentSecrets(processSources().environment), fileSecrets(settings.secretsDir)],
    timeoutMs: settings.modelTimeoutMs,
    tries: settings.modelTries,
    maxDelayMs: settings.modelMaxDelayMs,
    log,
    metrics,
  });
  lifecycle.onStop({
    name: 'models',
    phase: 'clients',
    run() {
      recaller.close();
      models.close();
      http.close();
    },
  });

  const store = turnStore(database, messaging.outbox, service);
  // From the claim, which reads it, to the run, which begins after the claim's commit.
  const openedTurns = new WeakMap<WorkItem, OpenedTurn>();
  const keepOpened = (item: WorkItem, opened: OpenedTurn) => void openedTurns.set(item, opened);
  const ofTurns = turnMetrics(metrics, () => worker.active());
  const runner = turnRunner({
    ...{ store, models, recaller, outbox: messaging.outbox, service, log, metrics: ofTurns },
    handOver: (item, lease) => worker.queue.handOver(database, item, lease),
    direct: (record, signal) => messaging.producer.direct(record, signal),
    takeOpened: (item) => openedTurns.get(item),
    limits: {
      maxRounds: settings.turnMaxRounds,
      maxToolCalls: settings.turnMaxToolCalls,
      maxOutputTokens: settings.turnMaxOutputTokens,
      maxTurnMs: settings.turnMaxMs,
      historyTokens: settings.turnHistoryTokens,
    },
    maxAttempts: settings.turnMaxAttempts,
    toolWaitMs: settings.toolWaitMs,
    delegation: { maxDepth: settings.delegationMaxDepth, waitMs: settings.delegationWaitMs },
    coalesceMs: settings.deltaCoalesceMs,
  });
  const worker = startWorker({
    ...{
      database,
      owner,
      log,
      metrics,
      schema: 'conversation_worker',
      queueName: 'turns',
      formats: turnFormats,
    },
    maxActive: settings.turnsMaxActive,
    needs: {
      name: 'kafka',
      handOverOn: 'KAFKA_UNAVAILABLE', // deltas go to it directly
      waitingMs: () => messaging.producer.waitingMs,
      probe: () => messaging.checkCluster(),
    },
    leaseMs: settings.turnLeaseMs,
    run: runner.run,
    giveUp: runner.giveUp,
    cancelled: runner.cancelled,
    retry: { baseDelayMs: settings.turnRetryDelayMs, maxRetries: settings.turnMaxAttempts - 1 },
  });
  lifecycle.onStop({
    name: 'turns',
    // From the begin on, so that nothing is claimed while the consumers leave their groups.
    phase: 'intake',
    timeoutMs: settings.turnStopMs + 4_000,
    run: () => worker.stop(AbortSignal.timeout(settings.turnStopMs)),
  });

  board.add({ name: 'database', required: true, probe: database.probe(expectedMigrations(service)) });
  board.add({ name: 'kafka', required: true, timeoutMs: 3_000, probe: (signal) => messaging.probe(signal) });
  const minFreeMb = settings.diskFreeMinMb;
  board.add({ name: 'disk', required: false, probe: diskProbe({ folders: [settings.dataDir], minFreeMb }) });
  board.add({ name: 'worker_pool', required: true, probe: async () => ({ ...worker.detail() }) });
  board.add({ name: 'outbox', required: false, probe: async () => messaging.outboxDetail() });
  board.add({ name: 'breakers', required: false, probe: () => breakers(models, recaller) });

  const server = createServer({ settings, log, telemetry, board, lifecycle });
  await server.listen();
  board.start();
  prepareValidators([
    'conversation.inbound',
    'tool.results',
    'delegation.updates',
    'memory.recall.results',
    'jobs.commands',
  ]);
  const intake = {
    ...{ store: intakeStore(database), worker, keepOpened, log, metrics: ofTurns, database },
    ...{ outbox: messaging.outbox, historyTokens: settings.turnHistoryTokens },
  };
  subscribe(messaging, intake);
  answerUpkeep({
    ...{ messaging, service, log, metrics },
    tasks: upkeepTasks(intake.store, worker.queue, settings.sessionExpireDays),
  });
  lifecycle.background('waits', (signal) => endWaits(intake, signal));
  const address = server.server.address();
  start.started({ port: typeof address === 'object' ? address?.port : undefined });
});

/** Without memories a turn goes on as well as it can: that degrades, as a model that is not asked does. */
async function breakers(models: Models, { state }: Recaller) {
  const shown = await models.probe();
  return {
    ...shown,
    'memory.recall': state,
    status: state === 'closed' ? shown.status : ('degraded' as const),
  };
}
