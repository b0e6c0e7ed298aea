import '@signalbox/telemetry/register';
import { databaseOptions } from '@signalbox/config/database-settings';
import { telemetryOptions } from '@signalbox/config/service-settings';
import { loadSettings } from '@signalbox/config/settings';
import { newId } from '@signalbox/contracts/ids';
import { prepareValidators } from '@signalbox/contracts/validate';
import { createServer, portOf } from '@signalbox/http/server';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { openAnswerer } from '@signalbox/messaging/answerer';
import { openAsker } from '@signalbox/messaging/asker';
import { openMessaging } from '@signalbox/messaging/messaging';
import { messagingMetrics } from '@signalbox/messaging/messaging-metrics';
import { openDatabase } from '@signalbox/postgres/database';
import { openPlainPool } from '@signalbox/postgres/plain-pool';
import { expectedMigrations } from '@signalbox/postgres/schema-version';
import { createBoard } from '@signalbox/readiness/board';
import { diskProbe } from '@signalbox/readiness/disk-probe';
import { superviseService } from '@signalbox/telemetry/service';
import { startTelemetry } from '@signalbox/telemetry/telemetry';
import { pieceDoer } from './do-piece.ts';
import { lostJobsEnder } from './end-lost-jobs.ts';
import { exportRoutes } from './export-routes.ts';
import { schemaProbe } from './graphile-probe.ts';
import { jobRunner } from './job-runner.ts';
import { jobStore } from './job-store.ts';
import { listJobs } from './list-jobs.ts';
import { poolLease } from './pool-lease.ts';
import { exportRunner } from './run-export.ts';
import { jobTeller } from './run-job.ts';
import { scheduleRunner } from './run-schedule.ts';
import { scheduleStore } from './schedule-store.ts';
import { crontabOf, schedulesOf } from './schedules.ts';
import { serviceName } from './service-name.ts';
import { jobWorkerSettings } from './settings.ts';
import { takeJobs } from './take-jobs.ts';
import { tasksOf } from './tasks.ts';
import { watchJobs } from './watch-jobs.ts';

await runMain(async (lifecycle) => {
  const settings = loadSettings(serviceName, jobWorkerSettings);
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
  // graphile-worker's: a statement at a time for each job, one that listens, one for the crontab.
  const pool = openPlainPool({
    url: settings.databaseUrl,
    size: settings.maxConcurrent + 2,
    poolTimeoutMs: settings.databasePoolTimeoutMs,
    applicationName: `${serviceName} queue`,
    poolName: 'queue',
    log,
    metrics,
  });
  lifecycle.onStop({ name: 'queue connections', phase: 'pools', run: () => pool.close() });
  lifecycle.onStop({ name: 'database', phase: 'pools', run: () => database.close() });
  const messaging = openMessaging({
    settings,
    instanceId,
    service: serviceName,
    database,
    log,
    metrics,
    lifecycle,
    topics: ['ui.notifications', 'jobs.commands', 'memory.recall.requests'],
  });
  const asking = { messaging, service: serviceName, log, metrics };
  const jobs = openAsker({ ...asking, requests: 'jobs.commands', results: 'jobs.results' });
  const memories = openAsker({
    ...asking,
    requests: 'memory.recall.requests',
    results: 'memory.recall.results',
  });

  const { askTimeoutMs } = settings;
  const schedules = schedulesOf(settings);
  const store = jobStore(database, messaging.outbox);
  const runs = scheduleStore(database);
  const lease = poolLease(database, settings.leaseMs, log);
  const teller = jobTeller(log, metrics);
  const watch = watchJobs(database, runs, schedules, metrics, log);
  const schema = schemaProbe(database, expectedMigrations(serviceName));
  const runner = jobRunner({
    pool,
    lease,
    tasks: tasksOf({
      store,
      lease,
      teller,
      runSchedule: scheduleRunner({
        schedules,
        store: runs,
        doPiece: pieceDoer({
          ...settings,
          asker: jobs,
          database,
          store,
          endLostJobs: lostJobsEnder(database, store, log),
        }),
        limit: settings.upkeepRows,
        runMs: settings.upkeepRunMs,
        log,
      }),
      runRequested: exportRunner({
        store,
        sources: { jobs, memories, askTimeoutMs },
        settings,
        held: () => lease.held,
      }),
    }),
    crontab: crontabOf(schedules),
    concurrency: settings.maxConcurrent,
    schemaReady: () => schema(lifecycle.stopEvent),
    canAsk: () => jobs.ready() && memories.ready(),
    finishMs: Math.round(settings.shutdownTimeoutMs / 3), // then 4 s for those that do not end, and the rest of the stop
    log,
  });

  metrics.gauge(
    'worker_last_heartbeat_timestamp',
    { help: 'Unix time of the last heartbeat that renewed this process’s leases.' },
    () => lease.lastBeatTimestamp,
  );
  board.add({ name: 'database', required: true, probe: schema });
  board.add({ name: 'kafka', required: true, timeoutMs: 2_000, probe: (signal) => messaging.probe(signal) });
  board.add({
    name: 'disk',
    required: false,
    intervalMs: 30_000,
    probe: diskProbe({
      folders: [settings.dataDir, settings.exportDir],
      minFreeMb: settings.diskFreeMinMb,
    }),
  });
  board.add({ name: 'outbox', required: false, probe: async () => messaging.outboxDetail() });
  board.add({
    name: 'worker_pool',
    required: false,
    probe: async () => ({
      status: runner.running && lease.held ? 'ok' : 'degraded',
      size: settings.maxConcurrent,
      busy: teller.busy,
      queued: watch.waiting,
      completed_total: teller.counts.completed,
      failed_total: teller.counts.failed,
    }),
  });
  board.start();

  const server = createServer({ settings, log, telemetry, board, lifecycle });
  exportRoutes(server, { folder: settings.exportDir, secret: settings.exportSigningSecret });
  await server.listen(); // health answers while the rest starts
  prepareValidators(['jobs.commands', 'jobs.results', 'memory.recall.results']);
  openAnswerer({
    ...asking,
    requests: 'jobs.commands',
    results: 'jobs.results',
    refused: 'jobs.refused',
    answers: { 'jobs.asked': listJobs({ store, runs, schedules }) },
    others: {
      eventTypes: ['job.requested'],
      handler: takeJobs({
        database,
        store,
        duplicates: messagingMetrics(metrics).duplicates,
        consumer: serviceName,
        log,
      }),
    },
  });
  lifecycle.background('jobs', (signal) => runner.run(signal));
  lifecycle.background('job figures', (signal) => watch.run(signal));
  service.started({ port: portOf(server) });
});
