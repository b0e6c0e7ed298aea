import '@signalbox/telemetry/register';
import { authenticatedApi } from '@signalbox/api/authenticated-api';
import { createWriteRoutes } from '@signalbox/api/write-routes';
import { databaseOptions } from '@signalbox/config/database-settings';
import { telemetryOptions } from '@signalbox/config/service-settings';
import { loadSettings } from '@signalbox/config/settings';
import { newId } from '@signalbox/contracts/ids';
import { createServer, portOf } from '@signalbox/http/server';
import { authProbe } from '@signalbox/identity/probe';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { openAsker } from '@signalbox/messaging/asker';
import { deadLetters } from '@signalbox/messaging/dead-letters';
import { openMessaging } from '@signalbox/messaging/messaging';
import { openDatabase } from '@signalbox/postgres/database';
import { expectedMigrations } from '@signalbox/postgres/schema-version';
import { createBoard } from '@signalbox/readiness/board';
import { diskProbe } from '@signalbox/readiness/disk-probe';
import { openRedis } from '@signalbox/redis/redis';
import { superviseService } from '@signalbox/telemetry/service';
import { startTelemetry } from '@signalbox/telemetry/telemetry';
import { createAcceptService } from './accept-service.ts';
import { actionRoutes } from './action-routes.ts';
import { answerJobWorker } from './answer-job-worker.ts';
import { deadLetterRoutes } from './dead-letter-routes.ts';
import { jobRoutes } from './job-routes.ts';
import { memorySearchRoutes } from './memory-search-routes.ts';
import { memoryWriteRoutes } from './memory-write-routes.ts';
import { messageRoutes } from './message-routes.ts';
import { notificationRoutes } from './notification-routes.ts';
import { storeNotifications } from './notification-store.ts';
import { sessionRoutes } from './session-routes.ts';
import { gatewaySettings } from './settings.ts';
import { storeTools } from './store-tools.ts';
import { streamKeys } from './stream-keys.ts';
import { streamRoutes } from './stream-routes.ts';
import { createStreamService } from './stream-service.ts';
import { upkeepTasks } from './upkeep-tasks.ts';

await runMain(async (lifecycle) => {
  const settings = loadSettings('gateway', gatewaySettings);
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
    topics: ['conversation.inbound', 'memory.writes', 'memory.recall.requests', 'jobs.commands'],
  });
  const accepting = createAcceptService({ settings, database, messaging, log, metrics });
  const streaming = createStreamService({ settings, database, redis, messaging, log, metrics });

  const asking = { messaging, service: 'gateway', log, metrics };
  const memories = openAsker({
    ...asking,
    requests: 'memory.recall.requests',
    results: 'memory.recall.results',
  });
  const jobs = openAsker({ ...asking, requests: 'jobs.commands', results: 'jobs.results' });

  board.add({ name: 'database', required: true, probe: database.probe(expectedMigrations('gateway')) });
  board.add({ name: 'kafka', required: 'after-grace', probe: (signal) => messaging.probe(signal) });
  board.add({ name: 'redis', required: 'after-grace', probe: (signal) => streaming.probeRedis(signal) });
  board.add({ name: 'auth_manager', required: false, probe: authProbe(database) });
  board.add({ name: 'outbox', required: false, probe: async () => messaging.outboxDetail() });
  board.add({ name: 'worker_pool', required: false, probe: async () => accepting.detail() });
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
      title: 'Signalbox gateway',
      description:
        'Post messages to sessions, follow their turns as event streams, page through what was said.',
      tags: [
        { name: 'chat', description: 'Messages in, event streams out.' },
        { name: 'sessions', description: 'What was said, as pages.' },
        { name: 'tools', description: 'What agents may call.' },
        { name: 'memory', description: 'What is remembered over sessions.' },
        { name: 'jobs', description: 'What runs by itself, and exports.' },
        { name: 'notifications', description: 'What people should see although they did not ask for it.' },
        { name: 'operations', description: 'What could not be handled, and what to do with it.' },
      ],
    },
  });
  const writes = createWriteRoutes({ database, schema: 'gateway', timeoutMs: settings.acceptTimeoutMs });
  writes.guard(server);
  const open = { sse: 0, websocket: 0 };
  metrics.gauge('gateway_sse_connections', { help: 'Event streams open now.' }, () => open.sse);
  metrics.gauge('gateway_websocket_connections', { help: 'WebSockets open now.' }, () => open.websocket);
  const api = { settings, database, redis, log, metrics, limitName: 'api' };
  authenticatedApi(server, api, (api) => {
    actionRoutes(api, { writes, outbox: messaging.outbox });
    messageRoutes(api, {
      accept: accepting.accept,
      accepts: accepting.accepts,
      maxOpenTurns: settings.tenantMaxOpenTurns,
      writes,
    });
    streamRoutes(api, {
      feeds: streaming.feeds,
      findPlace: streaming.findPlace,
      epoch: settings.streamEpoch,
      keepaliveMs: settings.streamKeepaliveMs,
      retryMs: settings.streamRetryMs,
      maxBufferedBytes: settings.streamMaxBufferedBytes,
      maxStallMs: settings.streamMaxStallMs,
      open,
    });
    sessionRoutes(api, database);
    memoryWriteRoutes(api, { writes, outbox: messaging.outbox });
    memorySearchRoutes(api, {
      asker: memories,
      writes,
      maxStallMs: settings.streamMaxStallMs,
      log,
    });
    jobRoutes(api, { asker: jobs, writes, outbox: messaging.outbox });
    notificationRoutes(api, { database, writes });
    deadLetterRoutes(api, { letters: deadLetters(database, log), writes, source: service });
  });

  board.start();
  await server.listen();
  streaming.consume();
  messaging.consume({ topic: 'tool.catalog', group: 'gateway', inbox: 'own-row', handler: storeTools });
  messaging.consume({
    topic: 'ui.notifications',
    group: 'gateway',
    inbox: 'own-row',
    handler: storeNotifications,
  });
  const keys = streamKeys(settings.redisKeyPrefix);
  answerJobWorker({ ...asking, database, tasks: upkeepTasks({ settings, database, redis, keys, log }) });
  lifecycle.background('stream boot', (signal) => streaming.watchBoot(signal));
  lifecycle.background('accept load', (signal) => accepting.refreshLoad(signal));
  lifecycle.background('redis watch', (signal) => streaming.watchRedis(signal));
  supervised.started({ port: portOf(server) });
});
