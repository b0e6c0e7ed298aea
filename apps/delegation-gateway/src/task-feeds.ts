import type { Slots } from '@signalbox/api/slots';
import { comparePositions, formatStreamId, type StreamPosition, streamStart } from '@signalbox/api/stream-id';
import { asFault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { Subscriber, Subscription } from '@signalbox/redis/subscriber';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { TaskEvent, TaskRef } from './task-event.ts';

/** Where a follower's events go. */
export interface EventSink {
  /** False when it has ended; a reader that is too slow is cut by this and ends. */
  send(event: TaskEvent): boolean;
  /** Resolves when what was sent has left, or the sink has ended. */
  drained(): Promise<void>;
  /** What was sent and waits for the network. */
  readonly bufferedBytes: number;
  /** Ends it and tells its client when to come back. */
  sendAway(retryMs: number): void;
  readonly closed: AbortSignal;
}

export interface TaskFeeds {
  /** Sends everything after `after` to the sink, then what comes, until the sink ends. Returns at once. */
  follow(task: TaskRef, after: StreamPosition, sink: EventSink): void;
  /** Asks once for the last places of all tasks that are followed. A timer of the caller does it each second. */
  look(): Promise<void>;
  /**
   * Ends the sinks that have followed since before `openedBefore` (monotonic, ms): this process cannot tell them anything
   * more, another one may. At most a part at a call, and with random retries, so that their clients do not come back
   * together. Answers how many.
   */
  sendAway(openedBefore: number): number;
  readonly tasks: number;
}

export interface TaskFeedOptions {
  readonly subscriber: Subscriber;
  readonly readSlots: Slots;
  /** Stored events behind a place, lowest first. */
  readEvents(task: TaskRef, after: StreamPosition, limit: number): Promise<readonly TaskEvent[]>;
  /** The place of the last event of each task. */
  lastPlaces(tasks: readonly TaskRef[]): Promise<readonly (StreamPosition | undefined)[]>;
  channelOf(task: TaskRef): string;
  readonly log: Logger;
  /** Pause before a read is tried again that the database could not answer. */
  readonly retryMs?: number;
  /** How long a new stream waits for Redis before its first read. */
  readonly subscribeMs?: number;
}

interface Follower {
  readonly sink: EventSink;
  readonly openedAt: number;
}

interface Feed {
  readonly task: TaskRef;
  /** The highest place that is known to hold an event of the task. */
  seen: StreamPosition;
  /** Counts moments at which events may have come that nobody told of. */
  asks: number;
  readonly followers: Set<Follower>;
  /** Reads under way, by what they began with: followers that stand at one place share one. */
  readonly reads: Map<string, Promise<readonly TaskEvent[]>>;
  /** Wake the followers that have read all there was. */
  readonly waiting: Set<() => void>;
  /** Resolves with undefined when Redis refused; undefined: to be tried again by the next look. */
  subscribed: Promise<Subscription | undefined> | undefined;
}

const pageEvents = 32;
/** Tasks asked for in one statement. */
const lookTasks = 500;
/** A sink with so much on its way to the network gets nothing more until that has left. */
const fullBytes = 262_144;
/** A socket that is closing takes nothing and has nothing to drain: looking at it must not hold the process. */
const fullPauseMs = 5;
/** Of those who are sent away, this many at a call, or a part of all. */
const awayAtOnce = 50;
const awayParts = 5;
const minAwayRetryMs = 250;
const spreadAwayRetryMs = 5_000;

/**
 * One feed for each task that somebody follows here. Postgres holds the events; two things say that there are new ones: a
 * wake-up by Redis, right after the commit, and a look at the last places each second, which is the guarantee.
 *
 * Both only raise `seen`. A follower reads while its own place is below it, so a wake-up that is lost, late, doubled or out
 * of order costs time or an empty read, never an event:
 *
 *   read up to 7 → 8 is committed, its wake-up lost → the look finds 8 → seen = 8 → read 8
 *   wake-up 9, then 8 → seen = 9 → read 8 and 9 → 8 is not above seen: nothing
 *
 * Events of a task become visible in the order of their places: they are of one partition, which is taken in offset order,
 * by an owner that commits a batch before the next. So a follower that has read up to `seen` has left nothing out.
 */
export function createTaskFeeds(options: TaskFeedOptions): TaskFeeds {
  const { subscriber, readSlots, readEvents, channelOf, log, retryMs = 250, subscribeMs = 500 } = options;
  const feeds = new Map<string, Feed>();

  function stir(feed: Feed): void {
    for (const wake of [...feed.waiting]) wake();
  }

  function raise(feed: Feed, place: StreamPosition): void {
    if (comparePositions(place, feed.seen) <= 0) return;
    feed.seen = place;
    stir(feed);
  }

  function ask(feed: Feed): void {
    feed.asks += 1;
    stir(feed);
  }

  function subscribe(feed: Feed): Promise<Subscription | undefined> {
    const subscribed = subscriber
      .subscribe(channelOf(feed.task), {
        onMessage: (message) => {
          const place = placeIn(message);
          if (place === undefined) ask(feed);
          else raise(feed, place);
        },
        onGap: () => ask(feed),
      })
      .then(
        (subscription) => {
          ask(feed); // what was committed before the channel was confirmed was not heard
          return subscription;
        },
        () => {
          feed.subscribed = undefined; // the look goes on without it
          return undefined;
        },
      );
    feed.subscribed = subscribed;
    return subscribed;
  }

  /** Channels that Redis refused: one is tried, and when it is confirmed the others. */
  function subscribeAgain(): void {
    const [first, ...others] = [...feeds.values()].filter(({ subscribed }) => subscribed === undefined);
    if (first === undefined) return;
    void subscribe(first).then((subscription) => {
      if (subscription === undefined) return;
      for (const feed of others) {
        if (feed.subscribed === undefined && feed.followers.size > 0) void subscribe(feed);
      }
    });
  }

  function feedOf(task: TaskRef): Feed {
    const channel = channelOf(task);
    const there = feeds.get(channel);
    if (there !== undefined) return there;
    const feed: Feed = {
      task,
      seen: streamStart,
      asks: 0,
      followers: new Set(),
      reads: new Map(),
      waiting: new Set(),
      subscribed: undefined,
    };
    subscribe(feed);
    feeds.set(channel, feed);
    return feed;
  }

  function leave(feed: Feed, follower: Follower): void {
    feed.followers.delete(follower);
    const channel = channelOf(feed.task);
    if (feed.followers.size > 0 || feeds.get(channel) !== feed) return;
    feeds.delete(channel);
    feed.subscribed?.then((subscription) => subscription?.end()).catch(() => undefined);
  }

  function read(feed: Feed, after: StreamPosition): Promise<readonly TaskEvent[]> {
    const key = `${formatStreamId(after)} ${formatStreamId(feed.seen)} ${feed.asks}`;
    let reading = feed.reads.get(key);
    if (reading === undefined) {
      reading = readSlots(() => readEvents(feed.task, after, pageEvents)).finally(() =>
        feed.reads.delete(key),
      );
      feed.reads.set(key, reading);
    }
    return reading;
  }

  async function sendAll(sink: EventSink, events: readonly TaskEvent[]): Promise<void> {
    for (const event of events) {
      while (sink.bufferedBytes > fullBytes && !sink.closed.aborted) {
        await sink.drained();
        await pause(fullPauseMs, sink.closed);
      }
      if (!sink.send(event)) return;
    }
  }

  async function run(feed: Feed, after: StreamPosition, sink: EventSink): Promise<void> {
    const { closed } = sink;
    let cursor = after;
    /** What `asks` was when everything had been read; undefined: there may be more. */
    let asked: number | undefined;
    let wake: () => void = () => undefined;
    closed.addEventListener('abort', () => wake(), { once: true });
    const stirred = () =>
      new Promise<void>((resolve) => {
        wake = () => {
          feed.waiting.delete(wake);
          resolve();
        };
        feed.waiting.add(wake);
        if (closed.aborted) wake();
      });
    // Subscribe, then read; but a stream must not wait for a Redis that is away.
    await Promise.race([feed.subscribed, pause(subscribeMs, closed)]);
    while (!closed.aborted) {
      const { seen, asks } = feed;
      if (asked === asks && comparePositions(cursor, seen) >= 0) {
        await stirred();
        continue;
      }
      try {
        const events = await read(feed, cursor);
        await sendAll(sink, events);
        const last = events.at(-1)?.at;
        if (last !== undefined) {
          cursor = last;
          raise(feed, last);
        }
        asked = events.length < pageEvents ? asks : undefined;
        if (asked === undefined) continue;
        // Nothing is left below what was seen before the read: what was there has been pruned.
        if (comparePositions(cursor, seen) < 0) cursor = seen;
      } catch (error) {
        const failure = asFault(error);
        // Away is told by the readiness checks.
        if (!failure.retryable) log.error('task_stream.read_failed', { error: failure });
        await pause(retryMs / 2 + Math.random() * retryMs, closed);
      }
    }
  }

  return {
    follow(task, after, sink) {
      const feed = feedOf(task);
      const follower = { sink, openedAt: performance.now() };
      feed.followers.add(follower);
      run(feed, after, sink)
        .catch((error: unknown) => log.error('task_stream.failed', { error: asFault(error) }))
        .finally(() => leave(feed, follower));
    },
    async look() {
      subscribeAgain();
      const followed = [...feeds.values()];
      for (let at = 0; at < followed.length; at += lookTasks) {
        const part = followed.slice(at, at + lookTasks);
        const places = await options.lastPlaces(part.map(({ task }) => task));
        for (const [index, feed] of part.entries()) {
          const place = places[index];
          if (place !== undefined) raise(feed, place);
        }
      }
    },
    sendAway(openedBefore) {
      const all = [...feeds.values()].flatMap(({ followers }) => [...followers]);
      const over = all.filter(({ openedAt }) => openedAt < openedBefore);
      const some = over.slice(0, Math.max(awayAtOnce, Math.ceil(all.length / awayParts)));
      for (const { sink } of some) sink.sendAway(minAwayRetryMs + Math.random() * spreadAwayRetryMs);
      return some.length;
    },
    get tasks() {
      return feeds.size;
    },
  };
}

const wakeForm = /^(\d{1,9})-(\d{1,19})$/;

function placeIn(message: string): StreamPosition | undefined {
  const match = wakeForm.exec(message);
  return match === null ? undefined : { epoch: Number(match[1]), position: BigInt(match[2] ?? '0') };
}
