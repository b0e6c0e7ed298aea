import { comparePositions, formatStreamId, type StreamPosition } from '@signalbox/api/stream-id';
import { asFault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { Subscriber, Subscription } from '@signalbox/redis/subscriber';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { ReadStream } from './read-stream.ts';
import type { SessionRef, StreamWake } from './session-stream.ts';
import type { StreamEntry } from './stream-event.ts';

/** Where a follower's entries go: an event stream or a WebSocket. */
export interface EntrySink {
  /** False when it has ended; a reader that is too slow is cut by this and ends. */
  send(entry: StreamEntry): boolean;
  /** Resolves when what was sent has left, or the sink has ended. */
  drained(): Promise<void>;
  /** What was sent and waits for the network. */
  readonly bufferedBytes: number;
  /** Ends it and tells its client when to come back. */
  sendAway(retryMs: number): void;
  readonly closed: AbortSignal;
}

export interface SessionFeeds {
  /** Sends everything after `after` to the sink, then what is appended, until the sink ends. Returns at once. */
  follow(session: SessionRef, after: StreamPosition, sink: EntrySink): void;
  /**
   * Ends the sinks that have followed since before `openedBefore` (monotonic, ms): this process cannot tell them anything
   * more, another one may. At most a part at a call, and with random retries, so that their clients do not come back
   * together. Answers how many.
   */
  sendAway(openedBefore: number): number;
  readonly sessions: number;
}

export interface SessionFeedOptions {
  readonly subscriber: Subscriber;
  readonly readStream: ReadStream;
  channelOf(session: SessionRef): string;
  /** The entries that a wake-up carries; undefined when it carries none. */
  readWake(message: string): StreamWake | undefined;
  readonly log: Logger;
  /** Pause before a read is tried again that Redis or Postgres could not answer, and between looks at a rebuild. */
  readonly retryMs?: number;
}

interface Follower {
  readonly sink: EntrySink;
  /** Monotonic, ms. */
  readonly openedAt: number;
  /** All entries up to here have been sent to the sink. */
  cursor: StreamPosition;
}

interface Feed {
  readonly session: SessionRef;
  readonly followers: Set<Follower>;
  /** Followers that have everything up to `head` and get what comes from the feed's own reading. */
  readonly live: Set<Follower>;
  /** Undefined while nobody is live. */
  head: StreamPosition | undefined;
  /** Wake-ups so far, and gaps in hearing them. */
  wakes: number;
  pumping: boolean;
  subscription: Promise<Subscription> | undefined;
}

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
 * One feed for each session that somebody follows here, however many follow it: one channel, one read a wake-up.
 *
 * A follower first catches up by itself from its own position, then goes live. The two must leave no event between:
 *   follower reads up to 7 → 8 is appended, its wake-up comes → follower goes live and would never hear of 8.
 * So it goes live only when no wake-up came since its last read began and the feed's head is not past what it has.
 *
 * A wake-up is a hint, Redis the truth. One that carries entries is taken at its word only where it fits: nothing is
 * being read, and the entry before the first of them is the head. The script made both in one instant, so nothing lies
 * between, which is all that a read would tell. In every other case the feed reads behind its head:
 *   lost:        head 7; 8 (after 7) is not heard; 9 (after 8) does not fit → read 8 and 9
 *   reordered:   head 7; 9 (after 8) does not fit → read 8 and 9, head 9; 8 (after 7) does not fit → read nothing
 *   redelivered: head 8; the owner appends 8 again, which is ignored; its wake-up carries nothing → read nothing
 *   at a read:   head 7, being read; 8 (after 7) is heard, and counted → the read may have been before it: read again
 *   emptied:     while its partition is appended again no wake-up carries anything → read, and told to wait
 */
export function createSessionFeeds(options: SessionFeedOptions): SessionFeeds {
  const { subscriber, readStream, channelOf, readWake, log, retryMs = 250 } = options;
  const feeds = new Map<string, Feed>();

  function feedOf(session: SessionRef): Feed {
    const channel = channelOf(session);
    let feed = feeds.get(channel);
    if (feed === undefined) {
      feed = {
        session,
        followers: new Set(),
        live: new Set(),
        head: undefined,
        wakes: 0,
        pumping: false,
        subscription: undefined,
      };
      feeds.set(channel, feed);
    }
    return feed;
  }

  function leave(feed: Feed, follower: Follower): void {
    feed.followers.delete(follower);
    feed.live.delete(follower);
    if (feed.live.size === 0) feed.head = undefined;
    const channel = channelOf(feed.session);
    if (feed.followers.size > 0 || feeds.get(channel) !== feed) return;
    feeds.delete(channel);
    feed.subscription?.then((subscription) => subscription.end()).catch(() => undefined);
  }

  function wake(feed: Feed, message?: string): void {
    feed.wakes += 1;
    const { head, pumping } = feed;
    if (head === undefined || pumping) return;
    const carried = message === undefined ? undefined : carriedBy(message);
    if (carried?.prev === formatStreamId(head)) hand(feed, head, carried.entries);
    else void pump(feed);
  }

  function carriedBy(message: string): StreamWake | undefined {
    try {
      return readWake(message);
    } catch (error) {
      tell(error);
      return undefined;
    }
  }

  function subscribed(feed: Feed): Promise<Subscription> {
    if (feed.subscription === undefined) {
      const subscription = subscriber.subscribe(channelOf(feed.session), {
        onMessage: (message) => wake(feed, message),
        onGap: () => wake(feed),
      });
      feed.subscription = subscription;
      subscription.catch(() => {
        if (feed.subscription === subscription) feed.subscription = undefined;
      });
    }
    return feed.subscription;
  }

  /** False when the sink is full or has ended: what is left of the entries was not sent. */
  function send(follower: Follower, entries: readonly StreamEntry[]): boolean {
    for (const entry of entries) {
      if (comparePositions(entry.at, follower.cursor) <= 0) continue;
      if (follower.sink.bufferedBytes > fullBytes || !follower.sink.send(entry)) return false;
      follower.cursor = entry.at;
    }
    return true;
  }

  async function catchUp(feed: Feed, follower: Follower): Promise<void> {
    const { closed } = follower.sink;
    while (!closed.aborted) {
      try {
        await subscribed(feed);
        const wakes = feed.wakes;
        const page = await readStream(feed.session, follower.cursor);
        if (page.state === 'rebuilding') {
          await pause(retryMs, closed);
          continue;
        }
        while (!send(follower, page.entries)) {
          if (closed.aborted) return;
          await follower.sink.drained();
          await pause(fullPauseMs, closed);
        }
        if (closed.aborted || page.more || feed.wakes !== wakes) continue;
        if (feed.head !== undefined && comparePositions(follower.cursor, feed.head) < 0) continue;
        feed.head ??= follower.cursor;
        feed.live.add(follower);
        return;
      } catch (error) {
        tell(error);
        await pause(retryMs * (0.5 + Math.random()), closed);
      }
    }
  }

  /** Sends what follows the head to all live followers and moves the head behind it. */
  function hand(feed: Feed, head: StreamPosition, entries: readonly StreamEntry[]): void {
    for (const follower of [...feed.live]) {
      // One that came after everybody of this head had left does not have what lies before these.
      const hasAllBefore = comparePositions(follower.cursor, head) >= 0;
      if (hasAllBefore && send(follower, entries)) continue;
      // One that takes its time reads on at its own pace, so that nothing piles up for it here.
      feed.live.delete(follower);
      void catchUp(feed, follower);
    }
    if (feed.live.size === 0) feed.head = undefined;
    const last = entries.at(-1);
    // Everybody may have left meanwhile, and somebody else come: the head is then that one's.
    if (feed.head === head && last !== undefined) feed.head = last.at;
  }

  /** Reads on behind the head for all live followers, until there was no wake-up during the last read. */
  async function pump(feed: Feed): Promise<void> {
    feed.pumping = true;
    try {
      while (feed.head !== undefined) {
        const wakes = feed.wakes;
        const head = feed.head;
        const page = await readStream(feed.session, head).catch(tell);
        if (page === undefined || page.state === 'rebuilding') {
          await pause(retryMs);
          continue;
        }
        hand(feed, head, page.entries);
        if (!page.more && feed.wakes === wakes) return;
      }
    } finally {
      feed.pumping = false;
    }
  }

  function tell(error: unknown): undefined {
    const { code } = asFault(error);
    // Away is told by its readiness check; anything else is a mistake of ours.
    if (code !== 'REDIS_UNAVAILABLE' && code !== 'DATABASE_UNAVAILABLE')
      log.error('stream.read_failed', { error });
    return undefined;
  }

  return {
    follow(session, after, sink) {
      if (sink.closed.aborted) return;
      const feed = feedOf(session);
      const follower: Follower = { sink, openedAt: performance.now(), cursor: after };
      feed.followers.add(follower);
      sink.closed.addEventListener('abort', () => leave(feed, follower), { once: true });
      void catchUp(feed, follower);
    },
    sendAway(openedBefore) {
      const all = [...feeds.values()].flatMap(({ followers }) => [...followers]);
      const over = all.filter(({ openedAt }) => openedAt < openedBefore);
      const some = over.slice(0, Math.max(awayAtOnce, Math.ceil(all.length / awayParts)));
      for (const { sink } of some) sink.sendAway(minAwayRetryMs + Math.random() * spreadAwayRetryMs);
      return some.length;
    },
    get sessions() {
      return feeds.size;
    },
  };
}
