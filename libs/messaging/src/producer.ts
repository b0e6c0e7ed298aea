import { type TopicName, topics } from '@signalbox/contracts/topics';
import { type Fault, fault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { PlacedRecord, ProducerClient } from './bus-client.ts';
import { partitionOf } from './murmur2.ts';
import type { PlainRecord, Receipt } from './outgoing.ts';
import { judgeSend, refusalReason } from './send-errors.ts';
import { type Queued, SendQueue } from './send-queue.ts';

/** Something to send. The producer calls exactly one of `sent` and `refused`, and neither after `withdrawn`. */
export interface Sending {
  readonly topic: TopicName;
  readonly key: string;
  /** Where it goes; its key decides if left out. */
  readonly partition?: number | undefined;
  /** Approximate size on the wire. */
  readonly bytes: number;
  /** Set by the owner: skipped from then on. A try that is under way may still put it into the log. */
  withdrawn: boolean;
  /** Called once, right before the first try. */
  record(): PlainRecord;
  sent(receipt: Receipt): void;
  /** The broker refuses this record alone (RECORD_REFUSED); what was behind it goes on. */
  refused(reason: Fault): void;
}

export interface Producer {
  /** Puts it at the end of the queue. Records of one key reach the log in the order of these calls. */
  enqueue(sending: Sending): void;
  /** Records that wait or are on their way. */
  readonly queued: number;
  /**
   * Since when sends have failed without a success between, in milliseconds; 0 while they succeed, and again a second
   * after the last failure when nothing is being tried: whoever asks may then try.
   */
  readonly failingForMs: number;
  /** How long the batch under way has waited for an answer, over all its tries, in milliseconds; 0 when there is none. */
  readonly waitingMs: number;
  /** Resolves when nothing is queued any more, or at the signal. */
  idle(signal: AbortSignal): Promise<void>;
  /** Stops trying. What is still queued is neither sent nor refused. */
  close(): Promise<void>;
}

const firstRetryMs = 20;
const maxRetryMs = 250;
const idleFailureMs = 1_000;

/**
 * One queue, one sendBatch in flight, and a failed batch is tried again before anything later: order by key comes from
 * that alone (delivery rule 1), and costs nothing, for what arrives meanwhile makes the next batch larger.
 */
export function createProducer(client: ProducerClient, log: Logger): Producer {
  const queue = new SendQueue();
  const closing = new AbortController();
  const idleWaiters = new Set<() => void>();
  let inFlight = 0;
  let pumping = false;
  let waitingSince: number | undefined;
  let failing: { readonly since: number; last: number } | undefined;
  let closed: Promise<void> | undefined;

  /** Tries until each of these is sent, refused or withdrawn, or the producer closes. */
  async function settle(batch: readonly Queued[]): Promise<void> {
    for (let tries = 0; !closing.signal.aborted; tries += 1) {
      const live = batch.filter(({ sending }) => !sending.withdrawn);
      if (live.length === 0) return;
      try {
        const receipts = await client.send(live.map(placed));
        failing = undefined;
        waitingSince = performance.now(); // of what is left of a batch that was halved
        live.forEach(({ sending }, i) => {
          const receipt = receipts[i];
          if (receipt !== undefined && !sending.withdrawn) tell(() => sending.sent(receipt));
        });
        return;
      } catch (error) {
        if (judgeSend(error) === 'refused') return await isolate(live, error);
        failing = { since: failing?.since ?? performance.now(), last: performance.now() };
        if (tries === 0) log.warning('producer.retrying', { error, records: live.length });
        await pause(Math.min(firstRetryMs * 2 ** Math.min(tries, 8), maxRetryMs), closing.signal);
      }
    }
  }

  /** Halves a refused batch until the bad record is alone. The first half is settled before the second, so order holds. */
  async function isolate(batch: readonly Queued[], error: unknown): Promise<void> {
    const [only] = batch;
    if (batch.length === 1 && only !== undefined) {
      const { sending } = only;
      const reason = fault('RECORD_REFUSED', refusalReason(error), { cause: error });
      log.error('producer.refused', { error: reason, topic: sending.topic, bytes: sending.bytes });
      tell(() => sending.refused(reason));
      return;
    }
    const middle = batch.length >> 1;
    await settle(batch.slice(0, middle));
    await settle(batch.slice(middle));
  }

  function tell(run: () => void): void {
    try {
      run();
    } catch (error) {
      log.error('producer.callback_failed', { error });
    }
  }

  async function pump(): Promise<void> {
    try {
      while (!closing.signal.aborted) {
        const batch = queue.take();
        if (batch.length === 0) break;
        inFlight = batch.length;
        waitingSince = performance.now();
        await settle(batch);
        inFlight = 0;
      }
    } catch (error) {
      log.critical('producer.pump_failed', { error }); // a defect; the next record starts it again
    } finally {
      inFlight = 0;
      waitingSince = undefined;
      pumping = false;
      for (const wake of [...idleWaiters]) wake();
    }
    if (queue.length > 0) start();
  }

  // All that one tick enqueues becomes one request: setImmediate runs after the tick's promises.
  function start(): void {
    if (pumping || closing.signal.aborted) return;
    pumping = true;
    setImmediate(() => void pump());
  }

  return {
    enqueue(sending) {
      queue.push(sending, sending.partition ?? partitionOf(sending.key, topics[sending.topic].partitions));
      start();
    },
    get queued() {
      return queue.length + inFlight;
    },
    get failingForMs() {
      if (failing === undefined) return 0;
      const now = performance.now();
      const idle = !pumping && queue.length === 0 && now - failing.last > idleFailureMs;
      return idle ? 0 : now - failing.since;
    },
    get waitingMs() {
      return waitingSince === undefined ? 0 : performance.now() - waitingSince;
    },
    async idle(signal) {
      while ((pumping || queue.length > 0) && !signal.aborted && !closing.signal.aborted) {
        const { promise, resolve } = Promise.withResolvers<void>();
        idleWaiters.add(resolve);
        signal.addEventListener('abort', () => resolve(), { once: true });
        await promise;
        idleWaiters.delete(resolve);
      }
    },
    close() {
      closing.abort();
      closed ??= client.close();
      return closed;
    },
  };
}

/** @throws RECORD_REFUSED for a record that no client can encode. */
function placed(queued: Queued): PlacedRecord {
  queued.record ??= { ...made(queued.sending), partition: queued.partition };
  return queued.record;
}

// Held here, record by record: a client's own TypeError may be about itself, and says nothing about the batch.
function made(sending: Sending): PlainRecord {
  let record: PlainRecord;
  try {
    record = sending.record();
  } catch (error) {
    throw fault('RECORD_REFUSED', 'the record cannot be made', { cause: error });
  }
  const { key, value, headers } = record;
  if (typeof key !== 'string') throw fault('RECORD_REFUSED', 'its key is no text');
  if (value !== null && !Buffer.isBuffer(value))
    throw fault('RECORD_REFUSED', 'its value is neither bytes nor null');
  for (const name in headers) {
    if (typeof headers[name] !== 'string') throw fault('RECORD_REFUSED', `its header ${name} is no text`);
  }
  return record;
}
