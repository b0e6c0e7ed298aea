import { asFault, fault } from '@signalbox/faults/fault';
import type { MessagingMetrics } from './messaging-metrics.ts';
import type { PlainRecord, Receipt } from './outgoing.ts';
import type { Sending } from './producer.ts';
import { wireBytes } from './row-sending.ts';

interface Direct {
  readonly since: number;
  end(reason: Error): void;
}

const boundMs = 30_000;
const maxOpen = 50_000;

/** The direct records of a process that have no answer yet. */
export class DirectRecords {
  readonly #metrics: MessagingMetrics;
  /** Oldest first. One timer of the owner bounds them all: one for each would cost as much as the record. */
  readonly #open = new Set<Direct>();

  constructor(metrics: MessagingMetrics) {
    this.#metrics = metrics;
  }

  get full(): boolean {
    return this.#open.size >= maxOpen;
  }

  /** The record as something to send, and its answer; `onOver` is called once, before the answer is told. */
  open(
    record: PlainRecord,
    signal: AbortSignal | undefined,
    onOver: () => void,
  ): { readonly sending: Sending; readonly answer: Promise<Receipt> } {
    const { promise, resolve, reject } = Promise.withResolvers<Receipt>();
    const over = (result: 'ok' | 'refused' | 'aborted') => {
      this.#open.delete(direct);
      signal?.removeEventListener('abort', onAbort);
      onOver();
      this.#metrics.published('direct', result);
    };
    const sending: Sending = {
      topic: record.topic,
      key: record.key,
      partition: record.partition,
      bytes: wireBytes(record),
      withdrawn: false,
      record: () => record,
      sent: (receipt) => {
        over('ok');
        resolve(receipt);
      },
      refused: (reason) => {
        over('refused');
        reject(reason);
      },
    };
    const direct: Direct = {
      since: performance.now(),
      end(reason) {
        sending.withdrawn = true; // a try under way may still succeed: the caller knows only that it has no answer
        over('aborted');
        reject(reason);
      },
    };
    const onAbort = () => direct.end(asFault(signal?.reason));
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#open.add(direct);
    return { sending, answer: promise };
  }

  /** Ends those that have waited for too long by now (monotonic milliseconds). */
  endOverdue(now: number): void {
    for (const direct of this.#open) {
      if (now - direct.since < boundMs) break;
      direct.end(fault('KAFKA_UNAVAILABLE', 'the record was not acknowledged in time'));
    }
  }
}
