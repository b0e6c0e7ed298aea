import '@signalbox/telemetry/register';
import { createAcceptLoad } from '@signalbox/api/accept-load';
import { authenticatedApi } from '@signalbox/api/authenticated-api';
import { repeat } from '@signalbox/api/repeat';
import { createWriteRoutes } from '@signalbox/api/write-routes';
import { databaseOptions } from '@signalbox/config/database-settings';
import { telemetryOptions } from '@signalbox/config/service-settings';
import { loadSettings } from '@signalbox/config/settings';
import { newId } from '@signalbox/contracts/ids';
import { createServer, portOf } from '@signalbox/http/server';
import { authProbe } from '@signalbox/identity/probe';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { openMessaging } from '@signalbox/messaging/messaging';
import { answerUpkeep } from '@signalbox/messaging/upkeep';
import { openDatabase } from '@signalbox/postgres/database';
import { expectedMigrations } from '@signalbox/postgres/schema-version';
import { createBoard } from '@signalbox/readiness/board';
import { diskProbe } from '@signalbox/readiness/disk-probe';
import { openRedis } from '@signalbox/redis/redis';
import { superviseService } from '@signalbox/telemetry/service';
import { startTelemetry } from '@signalbox/telemetry/telemetry';
import { delegationGatewaySettings } from './settings.ts';
import { createTaskGauge } from './task-gauge.ts';
import { taskRoutes } from './task-routes.ts';
import { countOpenTasks, prunedPlace } from './task-store.ts';
import { taskStreamRoutes } from './task-stream-routes.ts';
import { createUpdateService } from './update-service.ts';
import { upkeepTasks } from './upkeep-tasks.ts';

const loadEveryMs = 500;

await runMain(async (lifecycle) => {
  const settings = loadSettings('delegation-gateway', delegationGatewaySettings);
  const { serviceName: service, serviceVersion: version } = settings;
  const instanceId = newId();
  const telemetry = startTelemetry({ ...telemetryOptions(settings), instanceId });
  const { log, metrics } = telemetry;
  const board = createBoard({ service, version, graceMs: settings.readyGraceMs, log });
  const supervised = superviseService({ lifecycle, telemetry, board, settings });

  const database = openDatabase({
    ...databaseOptions(settings),
    poolTimeoutMs: Math.min(settings.databasePoolTimeoutMs, settings.acceptTimeoutMs),
    applicationName: service,
    log,
    metrics,
  });
  const redis = openRedis({
    url: settings.redisUrl,
    poolSize: settings.redisPoolSize,
    connectTimeoutMs: settings.redisConnectTimeoutMs,
    commandTimeoutMs: settings.redisCommandTimeoutMs,
    connectionName: service,
    log,
    metrics,
  });
  lifecycle.onStop({ name: 'redis', phase: 'clients', timeoutMs: 2_000, run: () => redis.close() });
  lifecycle.onStop({ name: 'database', phase: 'pools', timeoutMs: 5_000, run: () => database.close() });
  const messaging = openMessaging({
    settings,
    instanceId,
    service,
    database,
    log,
    metrics,
    lifecycle,
    topics: ['delegation.tasks'],
  });
  const updates = createUpdateService({ settings, database, redis, messaging, log, metrics });
  const gauge = createTaskGauge({ database, metrics, log });
  const load = createAcceptLoad({
    what: 'tasks',
    maxOpen: settings.tenantMaxOpenTasks,
    isOutboxFull: () => messaging.outbox.full,
    countOpen: (tenants, bound) => countOpenTasks(database, tenants, bound),
    onFailure: (error) => log.debug('accept.load_unknown', { error }),
  });

  board.add({
    name: 'database',
    required: true,
    probe: database.probe(expectedMigrations('delegation-gateway')),
  });
  board.add({ name: 'kafka', required: 'after-grace', probe: (signal) => messaging.probe(signal) });
  board.add({ name: 'redis', required: 'after-grace', probe: (signal) => redis.probe(signal) });
  board.add({ name: 'auth_manager', required: false, probe: authProbe(database) });
  board.add({ name: 'outbox', required: false, probe: async () => messaging.outboxDetail() });
  board.add({ name: 'worker_pool', required: false, probe: async () => updates.detail() });
  board.report('breakers', { status: 'ok', open: [] });
  board.add({
    name: 'disk',
    required: false,
    intervalMs: 10_000,
    probe: diskProbe({
      folders: [settings.dataDir, settings.logDir, settings.exportDir].filter(
        (folder) => folder !== undefined,
      ),
      minFreeMb: settings.diskFreeMinMb,
    }),
  });

  const server = createServer({
    settings,
    log,
    telemetry,
    board,
    lifecycle,
    openapi: {
      title: 'Signalbox delegation gateway',
      description: 'Submit tasks that take long, follow them, steer them.',
      tags: [{ name: 'tasks', description: 'Tasks, from their submission to their end.' }],
    },
  });
  const writes = createWriteRoutes({
    database,
    schema: 'delegation_gateway',
    timeoutMs: settings.acceptTimeoutMs,
  });
  writes.guard(server);
  const open = { sse: 0 };
  metrics.gauge('gateway_sse_connections', { help: 'Event streams open now.' }, () => open.sse);
  const submits = metrics.counter('delegation_gateway_submit_total', {
    help: 'Submitted tasks by result: accepted, replayed, or the error code in lower case.',
    labels: ['result'],
  });
  const parts = { settings, database, redis, log, metrics, limitName: 'delegation' };
  authenticatedApi(server, parts, (api) => {
    taskRoutes(api, {
      database,
      writes,
      outbox: messaging.outbox,
      load,
      maxOpenTasks: settings.tenantMaxOpenTasks,
      callbackUrls: {
        allowHttp: settings.environment === 'dev',
        allowedHosts: settings.webhookAllowedHosts,
      },
      submits,
    });
    taskStreamRoutes(api, {
      feeds: updates.feeds,
      prunedPlace: (task) => prunedPlace(database, task),
      epoch: settings.streamEpoch,
      keepaliveMs: settings.streamKeepaliveMs,
      retryMs: settings.streamRetryMs,
      maxBufferedBytes: settings.streamMaxBufferedBytes,
      maxStallMs: settings.streamMaxStallMs,
      open,
    });
  });

  board.start();
  await server.listen();
  updates.consume();
  answerUpkeep({ messaging, service, tasks: upkeepTasks(settings, database), log, metrics });
  lifecycle.background('task events', (signal) => updates.watchEvents(signal));
  lifecycle.background('task gauge', (signal) => gauge.refresh(signal));
  lifecycle.background('accept load', (signal) =>
    repeat(
      loadEveryMs,
      () => load.refresh(),
      () => undefined,
      signal,
    ),
  );
  supervised.started({ port: portOf(server) });
});
