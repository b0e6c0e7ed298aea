import { databaseOptions } from '@signalbox/config/database-settings';
import { telemetryOptions } from '@signalbox/config/service-settings';
import { loadSettings } from '@signalbox/config/settings';
import { newId } from '@signalbox/contracts/ids';
import { prepareValidators } from '@signalbox/contracts/validate';
import { createServer, portOf } from '@signalbox/http/server';
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
import { workUpkeepTasks } from '@signalbox/work/upkeep-tasks';
import { startWorker } from '@signalbox/work/worker';
import { payloadFormats } from './call-payload.ts';
import { callStore } from './call-store.ts';
import { argumentsChecker } from './check-arguments.ts';
import { callCounter } from './count-calls.ts';
import { keepPublishing } from './publish-catalog.ts';
import { readToolsModule } from './sandbox/child-protocol.ts';
import { SandboxPool } from './sandbox/sandbox-pool.ts';
import { serviceName } from './service-name.ts';
import { toolExecutorSettings } from './settings.ts';
import { takeRequests } from './take-requests.ts';
import { toolLookup } from './tool-lookup.ts';
import { workCalls } from './work-calls.ts';

/** Starts the service with the tools of a module, given by its URL: the children of the sandbox load it too. */
export async function toolExecutor(lifecycle: Lifecycle, toolsModule: string): Promise<void> {
  const settings = loadSettings(serviceName, toolExecutorSettings);
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
    topics: ['tool.results', 'tool.catalog', 'jobs.results'],
  });
  const pool = new SandboxPool({
    size: settings.maxConcurrent,
    warm: settings.warmProcesses,
    toolsModule,
    cpuSeconds: settings.cpuSeconds,
    memoryMb: settings.memoryMb,
    onStartFailed: (error) => log.error('sandbox.start_failed', { error }),
  });
  lifecycle.onStop({ name: 'sandbox', phase: 'clients', run: () => pool.close() });

  const tools = await readToolsModule(toolsModule);
  const { outbox } = messaging;
  const store = callStore(database, outbox);
  const implemented = new Set(tools.map(({ name }) => name));
  const countCall = callCounter(log, metrics, implemented);
  const queue = workQueue(database, 'tool_executor');
  const worker = startWorker({
    ...workCalls({
      store,
      fail: (item, lease, why) => queue.finish(database, item, lease, 'failed', why),
      log,
      countCall,
      pool,
      findTool: toolLookup(database),
      checkArguments: argumentsChecker(),
      implemented,
      limits: settings,
    }),
    database,
    schema: 'tool_executor',
    owner: instanceId,
    maxActive: settings.maxConcurrent,
    // What runs goes on: its outcome is a row, which a relay sends. Handed over, it would be told as unknown.
    needs: {
      name: 'kafka',
      waitingMs: () => messaging.producer.waitingMs,
      probe: () => messaging.checkCluster(),
    },
    leaseMs: settings.leaseMs,
    formats: payloadFormats,
    queueName: 'tool_calls',
    log,
    metrics,
  });
  const callsEndMs = Math.round(settings.shutdownTimeoutMs * (2 / 3)); // the rest of the stop needs its time too
  lifecycle.onStop({
    name: 'worker',
    // From the begin on, so that nothing is claimed while the consumer leaves its group.
    phase: 'intake',
    timeoutMs: callsEndMs + 4_000,
    run: () => worker.stop(AbortSignal.timeout(callsEndMs)),
  });

  board.add({ name: 'database', required: true, probe: database.probe(expectedMigrations(serviceName)) });
  board.add({ name: 'kafka', required: true, timeoutMs: 2_000, probe: (signal) => messaging.probe(signal) });
  board.add({
    name: 'disk',
    required: false,
    intervalMs: 30_000,
    probe: diskProbe({ folders: [settings.dataDir], minFreeMb: settings.diskFreeMinMb }),
  });
  board.add({ name: 'outbox', required: false, probe: async () => messaging.outboxDetail() });
  board.add({
    name: 'worker_pool',
    required: false,
    probe: async () => {
      const { stuck, warm } = pool.stats();
      const detail = { ...worker.detail(), warm_processes: warm };
      return stuck ? { ...detail, status: 'degraded', reason: 'sandbox' } : detail;
    },
  });
  board.start();

  const server = createServer({ settings, log, telemetry, board, lifecycle });
  await server.listen(); // health answers while the rest starts
  prepareValidators(['tool.requests', 'tool.results', 'jobs.commands']);
  messaging.consume({
    topic: 'tool.requests',
    group: serviceName,
    inbox: 'own-row',
    handler: takeRequests({ worker, store, countCall, log }),
    onCommitted: () => worker.wake(),
  });
  answerUpkeep({ messaging, service: serviceName, tasks: workUpkeepTasks(queue), log, metrics });
  lifecycle.background('catalog', (signal) => keepPublishing({ database, outbox, tools, log }, signal));
  service.started({ port: portOf(server) });
}
