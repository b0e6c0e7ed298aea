import { repeat } from '@signalbox/lifecycle/repeat';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { LogReader, PartitionPlace, RecordTime } from './log-reader.ts';

export interface OldestUnreadOptions {
  readonly topic: string;
  openReader(): Promise<LogReader>;
  /** How far this process has come in a partition that it reads, ahead of what is committed: the next offset to handle. */
  handled(partition: number): bigint | undefined;
  readonly log: Logger;
}

export interface OldestUnread {
  /** In seconds; undefined until the first look. */
  seconds(): number | undefined;
  close(): void;
}

const lookEveryMs = 1_000;
const lookBoundMs = 3_000;
/** Older than this, what was seen last is no longer what is. */
const staleMs = 5_000;

/** What the last look found, with its monotonic time. */
interface Seen {
  readonly at: number;
  /** Time of the oldest record that is not handled; undefined when there was none. */
  readonly oldestMs: number | undefined;
}

/**
 * The age of the oldest record of a topic that its group has not handled, by the records' time stamps, whoever of the
 * group was to handle it and whether it does: looked at beside the consumer, once a second. 0 when there is none. While the
 * broker does not answer, what it holds is not known; it is no older than the last look that found nothing.
 */
export function watchOldestUnread(options: OldestUnreadOptions): OldestUnread {
  const { log, topic } = options;
  const closing = new AbortController();
  /** By partition: the first record that is not handled, and from where on it is the first. */
  const firsts = new Map<
    number,
    { readonly from: bigint; readonly high: bigint; readonly record: RecordTime | undefined }
  >();
  let reader: LogReader | undefined;
  let seen: Seen | undefined;

  async function look(): Promise<void> {
    const found = await bounded(read());
    const times = found.flatMap((each) => (each === undefined ? [] : [each.timestampMs]));
    seen = { at: performance.now(), oldestMs: times.length === 0 ? undefined : Math.min(...times) };
  }

  async function read(): Promise<(RecordTime | undefined)[]> {
    const asked = reader ?? (await options.openReader());
    reader = asked;
    if (closing.signal.aborted) leave();
    const places = await asked.places();
    return await Promise.all(places.map((place) => firstUnread(asked, place)));
  }

  async function firstUnread(asked: LogReader, place: PartitionPlace): Promise<RecordTime | undefined> {
    const { partition, low, high, committed } = place;
    const from = largest(low, committed ?? low, options.handled(partition) ?? low);
    if (from >= high) return undefined;
    const known = firsts.get(partition);
    if (known !== undefined && known.from <= from) {
      if (known.record !== undefined && known.record.offset >= from) return known.record;
      if (known.record === undefined && known.high === high) return undefined;
    }
    const record = await asked.firstFrom(partition, from, high);
    firsts.set(partition, { from, high, record });
    return record;
  }

  function leave(): void {
    const left = reader;
    reader = undefined;
    left?.close().catch(() => undefined);
  }

  void repeat(
    lookEveryMs,
    look,
    (error, again) => {
      if (!again) log.info('consumer.age_unknown', { topic, reason: String(error) });
      leave();
    },
    closing.signal,
  );

  return {
    seconds() {
      if (seen === undefined) return undefined;
      if (seen.oldestMs !== undefined) return Math.max(0, (Date.now() - seen.oldestMs) / 1_000);
      const ageMs = performance.now() - seen.at;
      return ageMs < staleMs ? 0 : ageMs / 1_000;
    },
    close() {
      closing.abort();
      leave();
    },
  };
}

async function bounded<T>(promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('no answer in time')), lookBoundMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function largest(...offsets: readonly bigint[]): bigint {
  return offsets.reduce((most, each) => (each > most ? each : most));
}
