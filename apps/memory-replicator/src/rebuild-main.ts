import { databaseOptions } from '@signalbox/config/database-settings';
import { telemetryOptions } from '@signalbox/config/service-settings';
import { loadSettings } from '@signalbox/config/settings';
import { newId } from '@signalbox/contracts/ids';
import { armFailPoint } from '@signalbox/lifecycle/fail-point';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { openDatabase } from '@signalbox/postgres/database';
import { silentMetrics } from '@signalbox/telemetry/silent';
import { startTelemetry } from '@signalbox/telemetry/telemetry';
import { rebuildReplica } from './rebuild-replica.ts';
import { replicaStore } from './replica-store.ts';
import { serviceName } from './service-name.ts';
import { rebuildSettings } from './settings.ts';

/** A rebuild as a process of its own, beside the service: what `signalbox memory rebuild` starts. Exits 0 once switched. */
await runMain(async (lifecycle) => {
  const settings = loadSettings(serviceName, rebuildSettings);
  armFailPoint(settings.failPoint);
  const owner = newId();
  const { log } = startTelemetry({
    ...telemetryOptions(settings),
    ...{ instanceId: owner, tracing: false, metrics: false },
  });
  lifecycle.configure({ drainDelayMs: 0, stopTimeoutMs: settings.shutdownTimeoutMs, log });
  const database = openDatabase({
    ...databaseOptions(settings),
    ...{ applicationName: `${serviceName} rebuild`, log, metrics: silentMetrics },
  });
  lifecycle.onStop({ name: 'database', phase: 'pools', run: () => database.close() });
  const running = rebuildReplica({
    ...{ database, store: replicaStore(database, 1), settings, owner, log },
    signal: lifecycle.stopEvent,
    onProgress: (records) => log.debug('memory.rebuild_progress', { records }),
  });
  lifecycle.onStop({
    name: 'rebuild',
    phase: 'work',
    run: () =>
      running.then(
        () => undefined,
        () => undefined,
      ),
  });
  log.info('memory.rebuild_started');
  const { records, unreadable, tookMs } = await running;
  log.info('memory.rebuilt', { records, unreadable, tookMs });
  void lifecycle.stop('the replica was rebuilt');
});
