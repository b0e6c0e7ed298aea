import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  choice,
  decimal,
  environmentSetting,
  flag,
  integer,
  type SettingsOf,
  text,
  url,
} from './settings.ts';
import { projectRoot } from './sources.ts';

/** Ports by service; tests use 0. */
const ports: Readonly<Record<string, number>> = {
  gateway: 8010,
  'delegation-gateway': 8015,
  'conversation-worker': 8021,
  'tool-executor': 8022,
  'outbox-sync': 8023,
  'memory-sync': 8024,
  'memory-replicator': 8025,
  'delegation-worker': 8026,
  auditor: 8027,
  'job-worker': 8028,
};

export const logLevels = ['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'] as const;

/** What every service has. */
export const serviceSettings = {
  serviceName: text({
    env: 'SERVICE_NAME',
    doc: 'Name in logs, metrics and traces.',
    default: (service) => service,
    max: 64,
  }),
  serviceVersion: text({
    env: 'SERVICE_VERSION',
    doc: "Version that /version and every log line tell; the workspace's where none is set.",
    default: () => workspaceVersion(),
    max: 64,
  }),
  serviceCommit: text({
    env: 'SERVICE_COMMIT',
    doc: 'Commit that /version tells; the image sets it, a checkout knows it.',
    default: () => checkedOutCommit(),
    max: 64,
  }),
  environment: environmentSetting,
  host: text({ env: 'HOST', doc: 'Address to listen on.', default: '0.0.0.0', max: 255 }),
  port: integer({
    env: 'PORT',
    doc: 'Port to listen on; 0 takes a free one.',
    default: (service) => ports[service] ?? 0,
    max: 65_535,
  }),
  logLevel: choice({
    env: 'LOG_LEVEL',
    doc: 'Least level that is written.',
    values: logLevels,
    default: 'INFO',
    profiles: { dev: 'DEBUG' },
    devOnly: (level) => (level === 'DEBUG' ? 'DEBUG: it may write content' : undefined),
  }),
  logFormat: choice({
    env: 'LOG_FORMAT',
    doc: 'json for machines, pretty for people.',
    values: ['json', 'pretty'],
    default: 'json',
    profiles: { dev: 'pretty' },
    devOnly: (format) => (format === 'pretty' ? 'pretty: collectors read JSON' : undefined),
  }),
  metricsEnabled: flag({
    env: 'METRICS_ENABLED',
    doc: 'Whether /metrics answers; 404 where not.',
    default: true,
  }),
  tracingEnabled: flag({
    env: 'TRACING_ENABLED',
    doc: 'Whether spans are recorded. Trace ids are passed on in any case.',
    default: true,
  }),
  otlpEndpoint: url({
    env: 'OTEL_EXPORTER_OTLP_ENDPOINT',
    doc: 'Base address of an OTLP/HTTP collector; spans go to <base>/v1/traces. Without one none are sent.',
    optional: true,
  }),
  traceSampleRatio: decimal({
    env: 'OTEL_TRACES_SAMPLER_ARG',
    doc: 'Share of new traces that is recorded; a trace from outside keeps its own decision.',
    default: 1,
    max: 1,
  }),
  shutdownTimeoutMs: integer({
    env: 'SHUTDOWN_TIMEOUT_MS',
    doc: 'Bound of the whole stop; past it the process exits 75. 20 s for HTTP services, 30 s for workers.',
    default: (service) => (service.endsWith('gateway') ? 20_000 : 30_000),
    min: 100,
    max: 600_000,
  }),
  drainDelayMs: integer({
    env: 'DRAIN_DELAY_MS',
    doc: 'How long requests are still served after /ready says draining; inside SHUTDOWN_TIMEOUT_MS. 5000 behind a load balancer.',
    default: 0,
    max: 300_000,
  }),
  lastScrapeMs: integer({
    env: 'LAST_SCRAPE_MS',
    doc: 'How long the health port waits for one more scrape of /metrics when all else is closed, if it was ever scraped; inside SHUTDOWN_TIMEOUT_MS.',
    default: 500,
    max: 120_000,
  }),
  diskFreeMinMb: integer({
    env: 'DISK_FREE_MIN_MB',
    doc: 'Less free space than this under the data, log or export folder degrades /health.',
    default: 512,
  }),
  dataDir: text({ env: 'DATA_DIR', doc: 'Folder for what a service keeps on disk.', default: '.data' }),
  logDir: text({
    env: 'LOG_DIR',
    doc: 'Folder of log files, where a supervisor writes any.',
    optional: true,
  }),
  exportDir: text({ env: 'EXPORT_DIR', doc: 'Folder of exports, where there are any.', optional: true }),
  failPoint: text({
    env: 'FAIL_POINT',
    doc: 'For tests of crashes: the process kills or stops itself at this point of its code, <name>[:<pass>][:SIGKILL|SIGSTOP].',
    optional: true,
    devOnly: () => 'a fail point: it ends the process on purpose',
  }),
  secretsDir: text({
    env: 'SECRETS_DIR',
    doc: 'Folder with one file a secret; any value may refer to it by name.',
    default: '/run/secrets',
  }),
};

/** Those about logs, metrics and traces, as the options of `startTelemetry`. */
export function telemetryOptions(settings: SettingsOf<typeof serviceSettings>) {
  return {
    service: settings.serviceName,
    version: settings.serviceVersion,
    environment: settings.environment,
    tracing: settings.tracingEnabled,
    metrics: settings.metricsEnabled,
    otlpEndpoint: settings.otlpEndpoint,
    sampleRatio: settings.traceSampleRatio,
    logLevel: settings.logLevel,
    logFormat: settings.logFormat,
  };
}

function workspaceVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(join(projectRoot, 'package.json'), 'utf8'));
  const hasVersion = typeof manifest === 'object' && manifest !== null && 'version' in manifest;
  return hasVersion && typeof manifest.version === 'string' ? manifest.version : '0.0.0';
}

/** The commit of a checkout, read from its files: starting git would cost a process at every start. */
function checkedOutCommit(): string {
  try {
    const head = readFileSync(join(projectRoot, '.git', 'HEAD'), 'utf8').trim();
    if (!head.startsWith('ref: ')) return head.slice(0, 12) || 'unknown';
    return (
      readFileSync(join(projectRoot, '.git', head.slice(5)), 'utf8')
        .trim()
        .slice(0, 12) || 'unknown'
    );
  } catch {
    return 'unknown';
  }
}
