import { fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';

/** Under the shortest session timeout (6 s), with room for the dead letter after it. */
export const handlerMs = 4_000;

/**
 * The time that handlers of one subscription get. A client neither heartbeats nor stops while a handler hangs (kafkajs
 * issues 571, 1720), so nobody waits for one longer than `handlerMs`. A promise cannot be ended from outside: what still
 * runs then must come back before anything of its lane is handled again, or two handlers would have the same records.
 */
export class HandlerBound {
  readonly #topic: string;
  readonly #log: Logger;
  /** Since when handlers have been late, by lane; monotonic milliseconds. */
  readonly #late = new Map<number, number>();

  constructor(topic: string, log: Logger) {
    this.#topic = topic;
    this.#log = log;
  }

  /** Since when the one hangs that has hung for longest; undefined while none does. */
  get hangingSince(): number | undefined {
    let earliest: number | undefined;
    for (const since of this.#late.values()) earliest = Math.min(since, earliest ?? since);
    return earliest;
  }

  /**
   * Runs a handler of the lane; its signal aborts when nobody waits any more.
   * @throws what the handler throws; TIMEOUT when it is late, or while an earlier one of the lane still runs.
   */
  async run(lane: number, handler: (signal: AbortSignal) => Promise<void>): Promise<void> {
    if (this.#late.has(lane)) throw fault('TIMEOUT', 'an earlier handler still runs');
    const controller = new AbortController();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), handlerMs);
    });
    let running: Promise<void>;
    try {
      running = handler(controller.signal);
      if ((await Promise.race([running, late])) !== 'late') return;
    } finally {
      clearTimeout(timer);
    }
    const since = performance.now();
    this.#late.set(lane, since);
    this.#log.error('consumer.handler_hangs', { topic: this.#topic, afterMs: handlerMs });
    const back = () => {
      this.#late.delete(lane);
      const afterMs = Math.round(performance.now() - since + handlerMs);
      this.#log.info('consumer.handler_back', { topic: this.#topic, afterMs });
    };
    running.then(back, back);
    const reason = fault('TIMEOUT', 'the handler did not end in time');
    controller.abort(reason);
    throw reason;
  }
}
