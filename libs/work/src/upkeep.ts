import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import type { TenantLoad, WorkQueue } from './queue.ts';
import { keepFinishedMs } from './upkeep-tasks.ts';

export interface UpkeepOptions {
  readonly keepFinishedMs?: number;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly queueName: string;
}

const loadEveryMs = 2000;
const sweepEveryMs = 10_000;
const pruneEveryMs = 60_000;
const pruneRows = 1000;
const staleAfterMs = 30_000;

/** Counts, the net below the touches of lanes, and the end of old rows; every process does them, none needs another. */
export class Upkeep {
  readonly #queue: WorkQueue;
  readonly #options: UpkeepOptions;
  readonly #timers: NodeJS.Timeout[] = [];
  #load: readonly TenantLoad[] = [];
  #loadAt: number | undefined;
  #busy = false;

  constructor(queue: WorkQueue, options: UpkeepOptions) {
    this.#queue = queue;
    this.#options = options;
  }

  get load(): readonly TenantLoad[] {
    return this.#load;
  }

  start(): void {
    const { metrics, queueName } = this.#options;
    const labels = { queue: queueName };
    const recent = () => this.#loadAt !== undefined && Date.now() - this.#loadAt < staleAfterMs;
    metrics.gauge(
      'work_waiting',
      {
        help: 'Work rows that wait for a process or for their turn in a lane; not those behind a parked one.',
        labels: ['queue'],
      },
      () =>
        recent() ? [{ value: this.#load.reduce((sum, each) => sum + each.waiting, 0), labels }] : undefined,
    );
    metrics.gauge(
      'work_oldest_seconds',
      { help: 'How long the lane that waits longest for a process has waited.', labels: ['queue'] },
      () =>
        recent()
          ? [{ value: this.#load.reduce((most, each) => Math.max(most, each.oldestSeconds), 0), labels }]
          : undefined,
    );
    const readLoad = () => this.#quietly('load', () => this.#readLoad());
    readLoad();
    this.#timers.push(
      setInterval(readLoad, loadEveryMs),
      setInterval(() => this.#quietly('sweep', () => this.#sweep()), sweepEveryMs),
      setInterval(() => this.#quietly('prune', () => this.#prune()), pruneEveryMs),
    );
  }

  stop(): void {
    for (const timer of this.#timers) clearInterval(timer);
  }

  async #readLoad(): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    try {
      this.#load = await this.#queue.load();
      this.#loadAt = Date.now();
    } finally {
      this.#busy = false;
    }
  }

  async #sweep(): Promise<void> {
    const found = await this.#queue.sweep();
    if (found > 0) this.#options.log.warning('work.sweep_found', { lanes: found });
  }

  async #prune(): Promise<void> {
    const olderThanMs = this.#options.keepFinishedMs ?? keepFinishedMs;
    for (let round = 0; round < 20; round += 1) {
      if ((await this.#queue.prune(olderThanMs, pruneRows)) < pruneRows) return;
    }
  }

  #quietly(what: string, act: () => Promise<void>): void {
    act().catch((error: unknown) => this.#options.log.debug('work.upkeep_failed', { what, error }));
  }
}
