import '@signalbox/telemetry/register';
import { databaseOptions } from '@signalbox/config/database-settings';
import { telemetryOptions } from '@signalbox/config/service-settings';
import { loadSettings } from '@signalbox/config/settings';
import { newId } from '@signalbox/contracts/ids';
import { createServer, portOf } from '@signalbox/http/server';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { openMessaging } from '@signalbox/messaging/messaging';
import { messagingMetrics } from '@signalbox/messaging/messaging-metrics';
import { RefusedRows } from '@signalbox/messaging/refused-rows';
import { openDatabase } from '@signalbox/postgres/database';
import { expectedMigrations } from '@signalbox/postgres/schema-version';
import { createBoard } from '@signalbox/readiness/board';
import { diskProbe } from '@signalbox/readiness/disk-probe';
import { superviseService } from '@signalbox/telemetry/service';
import { startTelemetry } from '@signalbox/telemetry/telemetry';
import { createRelay } from './publish-pending.ts';
import { outboxSyncSettings } from './settings.ts';
import { SlotLease } from './slot-lease.ts';

await runMain(async (lifecycle) => {
  const settings = loadSettings('outbox-sync', outboxSyncSettings);
  const instanceId = newId();
  const telemetry = startTelemetry({ ...telemetryOptions(settings), instanceId });
  const { log, metrics } = telemetry;
  const board = createBoard({ service: settings.serviceName, version: settings.serviceVersion, log });
  const service = superviseService({ lifecycle, telemetry, board, settings });

  const database = openDatabase({
    ...databaseOptions(settings),
    applicationName: 'outbox-sync',
    log,
    metrics,
  });
  const messaging = openMessaging({
    settings,
    instanceId,
    service: 'outbox-sync',
    database,
    log,
    metrics,
    lifecycle,
  });
  lifecycle.onStop({ name: 'database', phase: 'pools', run: () => database.close() });

  board.add({ name: 'database', required: true, probe: database.probe(expectedMigrations('outbox-sync')) });
  board.add({ name: 'kafka', required: true, timeoutMs: 4_000, probe: messaging.probe });
  const folders = [settings.dataDir, settings.logDir, settings.exportDir].filter(
    (folder) => folder !== undefined,
  );
  board.add({
    name: 'disk',
    required: false,
    intervalMs: 15_000,
    probe: diskProbe({ folders, minFreeMb: settings.diskFreeMinMb }),
  });
  board.add({ name: 'outbox', required: false, probe: async () => messaging.outboxDetail() });
  board.start();

  const server = createServer({ settings, log, telemetry, board, lifecycle });
  await server.listen();
  const port = portOf(server);
  log.info('service.listening', { port });

  const lease = new SlotLease(database, instanceId, log);
  const refusedRows = new RefusedRows(database, log);
  const relay = createRelay({
    database,
    messaging,
    refusedRows,
    slots: () => lease.slots,
    pollMs: settings.outboxPollMs,
    staleMs: settings.outboxStaleMs,
    log,
    metrics: messagingMetrics(metrics),
  });
  metrics.gauge(
    'worker_last_heartbeat_timestamp',
    { help: 'When the main loop last went round, in seconds since 1970.' },
    () => relay.lastRoundTimestamp,
  );
  lifecycle.background('slot lease', (signal) => lease.run(signal));
  lifecycle.background('relay', (signal) => relay.run(signal));
  lifecycle.onStop({
    name: 'refused rows',
    phase: 'audit',
    timeoutMs: 2_000,
    run: () => refusedRows.settled(),
  });
  service.started({ port });
});
