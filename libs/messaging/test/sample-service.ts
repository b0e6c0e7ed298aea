/**
 * A service with one consumer, for tests that need a whole process. Its effect of a record is a row of effects.effects;
 * a message `hang <run>` never comes back from its handler, unless the service is `steady`. One that `answers` does that
 * instead, with the question itself, but never the question `hang`. Arguments: the run, how its members behave, and the session
 * timeout that its watchdog counts with.
 */
import { createServer } from 'node:http';
import { databaseSettings } from '@signalbox/config/database-settings';
import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { serviceSettings } from '@signalbox/config/service-settings';
import { loadSettings } from '@signalbox/config/settings';
import { newId } from '@signalbox/contracts/ids';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { openDatabase } from '@signalbox/postgres/database';
import { createBoard } from '@signalbox/readiness/board';
import { superviseService } from '@signalbox/telemetry/service';
import { startTelemetry } from '@signalbox/telemetry/telemetry';
import { openAnswerer } from '../src/answerer.ts';
import { kafkajsBus } from '../src/kafkajs-bus.ts';
import { openMessaging } from '../src/messaging.ts';
import { effectsOf, messageOf } from './effects.ts';
import { brokersSession, busAround, silent } from './member-wrappers.ts';
import { echo, requests, results } from './questions.ts';

await runMain(async (lifecycle) => {
  const [, , run = 'run', behaviour = 'plain', sessionMs] = process.argv;
  const settings = loadSettings('sample', {
    ...serviceSettings,
    ...databaseSettings,
    ...kafkaSettings,
    ...outboxSettings,
  });
  const telemetry = startTelemetry({
    service: 'sample',
    version: '0',
    environment: 'dev',
    instanceId: newId(),
    tracing: false,
    metrics: true,
    logLevel: settings.logLevel,
    logFormat: 'json',
  });
  const { log, metrics } = telemetry;
  const board = createBoard({ service: 'sample', log });
  const service = superviseService({ lifecycle, telemetry, board, settings });
  const database = openDatabase({
    url: settings.databaseUrl,
    poolSize: 4,
    maxOverflow: 0,
    poolTimeoutMs: 2_000,
    poolRecycleMs: 600_000,
    applicationName: 'sample',
    log,
    metrics,
  });
  const messaging = openMessaging({
    settings: {
      ...settings,
      ...(sessionMs === undefined ? {} : { kafkaSessionTimeoutMs: Number(sessionMs) }),
    },
    instanceId: newId(),
    service: 'sample',
    database,
    log,
    metrics,
    lifecycle,
    bus: brokersSession(behaviour === 'silent' ? busAround(kafkajsBus, silent) : kafkajsBus),
  });
  if (behaviour === 'answers') {
    openAnswerer({
      ...{ messaging, service: run, requests, results, log, metrics },
      answers: {
        async 'memory.recall_requested'({ value: { query } }) {
          log.info('sample.asked', { query });
          if (query === 'hang') await new Promise(() => undefined);
          return echo(query);
        },
      },
    });
  } else {
    messaging.consume({
      topic: 'conversation.inbound',
      group: run,
      inbox: 'own-row',
      handler: effectsOf(run, async (records) => {
        if (behaviour !== 'steady' && records.map(messageOf).includes(`hang ${run}`))
          await new Promise(() => undefined);
      }),
    });
  }
  lifecycle.onStop({ name: 'database', phase: 'pools', run: () => database.close(1_000) });
  board.add({ name: 'kafka', required: true, intervalMs: 200, timeoutMs: 4_000, probe: messaging.probe });
  board.start();

  const server = createServer((request, response) => {
    if (request.url === '/metrics') return void telemetry.metricsText().then((text) => response.end(text));
    const { code, body } = board.readiness();
    response.writeHead(code).end(JSON.stringify(body));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  lifecycle.onStop({ name: 'port', phase: 'health-port', run: () => void server.close() });
  const address = server.address();
  const port = typeof address === 'object' ? address?.port : 0;
  log.info('service.listening', { port });
  service.started({ port });
});
