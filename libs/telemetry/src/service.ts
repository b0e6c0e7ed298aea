import { describeSettings } from '@signalbox/config/settings';
import { fault } from '@signalbox/faults/fault';
import { armFailPoint } from '@signalbox/lifecycle/fail-point';
import type { Lifecycle, StepReport, StopReport } from '@signalbox/lifecycle/lifecycle';
import type { Board } from '@signalbox/readiness/board';
import type { Telemetry } from './telemetry.ts';
import { failSpan, type Span, startSpan, withSpan } from './trace.ts';

export interface ServiceParts {
  readonly lifecycle: Pick<Lifecycle, 'configure' | 'onStop'>;
  readonly telemetry: Telemetry;
  readonly board: Board;
  /** The object that loadSettings returned. */
  readonly settings: {
    readonly drainDelayMs: number;
    readonly shutdownTimeoutMs: number;
    readonly failPoint: string | undefined;
  };
}

/** What a main says about its service's start. */
export interface ServiceStart {
  /** All is there: ends `starting`, observes `service_startup_seconds`, logs `service.started` with the fields. */
  started(fields?: Readonly<Record<string, unknown>>): void;
}

/**
 * What every service does the same around its start and its stop; a main calls it right after it has telemetry and a
 * board. Logs `service.starting` and `config.validated` (every setting with its origin, secrets masked) and warns of names
 * that are not read. Gives the lifecycle its bounds, its log and the `shutdown` span; readiness turns to draining in the
 * first phase, telemetry ends in its own, and `service_shutdown_seconds` is observed while /metrics still answers. Arms a
 * test's fail point, which the settings refuse outside of dev.
 * @throws CONFIG_INVALID when FAIL_POINT names none.
 */
export function superviseService(parts: ServiceParts): ServiceStart {
  const { lifecycle, telemetry, board, settings } = parts;
  const { log, metrics } = telemetry;
  const described = describeSettings(settings);
  log.info('service.starting', { pid: process.pid, node: process.version });
  for (const warning of described.warnings) log.warning('config.legacy_name', {}, warning);
  log.info('config.validated', { settings: described.settings });
  armFailPoint(settings.failPoint);

  const startup = metrics.histogram('service_startup_seconds', {
    help: 'Time from the start of the process to the end of its start.',
  });
  const shutdown = metrics.histogram('service_shutdown_seconds', {
    help: 'Time from the begin of a stop until only the health port was left.',
  });
  metrics.gauge(
    'readiness_last_success_timestamp',
    { help: 'When the service was last ready, in seconds since 1970.' },
    () => board.lastSuccessTimestamp(),
  );

  let draining = false;
  lifecycle.configure({
    drainDelayMs: settings.drainDelayMs,
    stopTimeoutMs: settings.shutdownTimeoutMs,
    log,
    aroundStop: (run) =>
      withSpan('shutdown', { root: true }, async (span) => {
        draining = true;
        const report = await run();
        draining = false;
        describeStop(span, report);
      }),
    // Those behind the pools end after the span that they would be children of.
    onStep: (step) => draining && recordStep(step),
    onStopped: (report: StopReport) => shutdown.record(report.durationMs / 1_000),
  });
  lifecycle.onStop({ name: 'readiness', phase: 'readiness', run: () => board.markDraining() });
  lifecycle.onStop({ name: 'telemetry', phase: 'telemetry', run: () => telemetry.shutdown() });

  return {
    started(fields = {}) {
      board.markStarted();
      const seconds = process.uptime();
      startup.record(seconds);
      log.info('service.started', { ...fields, startupMs: Math.round(seconds * 1_000) });
    },
  };
}

function describeStop(span: Span, { reason, outcome, overran, failed }: StopReport): void {
  span.setAttributes({
    'shutdown.reason': reason,
    'shutdown.outcome': outcome,
    'shutdown.overran': [...overran],
    'shutdown.failed': [...failed],
  });
  if (overran.length > 0) failSpan(span, fault('TIMEOUT', `did not end in time: ${overran.join(', ')}`));
}

/** A child of the `shutdown` span, so that a trace shows which step took the time. */
function recordStep({ name, phase, outcome, durationMs, error }: StepReport): void {
  const span = startSpan(`stop ${name}`, {
    startedAtMs: Date.now() - durationMs,
    attributes: { 'shutdown.step': name, 'shutdown.phase': phase, 'shutdown.outcome': outcome },
  });
  if (error !== undefined) failSpan(span, error);
  span.end();
}
