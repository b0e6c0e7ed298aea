import { newId } from '@signalbox/contracts/ids';
import type { Database } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { type LogFields, type Logger, startTelemetry } from '@signalbox/telemetry/telemetry';
import { afterEach } from 'vitest';
import { type Lease, startWorker, type Worker, type WorkerOptions, type WorkItem } from '../src/worker.ts';
import { schema } from './test-queue.ts';

type Run = (item: WorkItem, lease: Lease, worker: Worker) => Promise<void>;
type StartWorker = (database: Database, run: Run, more?: Partial<WorkerOptions>) => Worker;

/** Starts workers on the test queue; those of a test are stopped after it. */
export function ownWorkers(): StartWorker {
  const running: Worker[] = [];
  afterEach(async () => {
    await Promise.all(running.splice(0).map((worker) => worker.stop(AbortSignal.abort(), 500)));
  });
  return (database, run, more = {}) => {
    const worker: Worker = startWorker({
      ...workerOptions(database),
      run: (item, lease) => run(item, lease, worker),
      ...more,
    });
    running.push(worker);
    return worker;
  };
}

/** Short leases, nothing logged. */
export function workerOptions(database: Database) {
  return {
    database,
    schema,
    owner: newId(),
    maxActive: 16,
    leaseMs: 3000,
    heartbeatMs: 200,
    formats: [1],
    log: silentLog,
    metrics: silentMetrics,
    queueName: 'test',
  };
}

export const finish = (database: Database, item: WorkItem, lease: Lease, worker: Worker) =>
  worker.queue.finish(database, item, lease, 'done').then(() => undefined);

/** Rejects with the signal's reason. */
export const untilAborted = ({ signal }: Pick<Lease, 'signal'>) =>
  new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });

export interface LogLine extends LogFields {
  readonly event: string;
}

/** A logger that keeps what it is told, and how often each event came. */
export function keptLog(): { log: Logger; lines: LogLine[]; count(event: string): number } {
  const lines: LogLine[] = [];
  const keep = (event: string, fields?: LogFields) => void lines.push({ ...fields, event });
  const log: Logger = {
    debug: keep,
    info: keep,
    warning: keep,
    error: keep,
    critical: keep,
    child: () => log,
    enabled: () => true,
  };
  return { log, lines, count: (event) => lines.filter((line) => line.event === event).length };
}

/** Metrics that can be read as a scrape reads them. */
export function readableMetrics() {
  return startTelemetry({
    service: 'test',
    version: '1',
    environment: 'dev',
    instanceId: 'i',
    tracing: false,
    metrics: true,
    logLevel: 'CRITICAL',
    logFormat: 'json',
  });
}
