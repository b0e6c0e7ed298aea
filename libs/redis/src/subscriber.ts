import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Redis as Client } from 'ioredis';
import { asRedisFault } from './redis-faults.ts';
import { whenReady } from './when-ready.ts';

export interface Subscription {
  /** Stops the messages; the channel is given up with its last listener. */
  end(): Promise<void>;
}

export interface SubscriptionListener {
  onMessage(message: string): void;
  /**
   * The connection was lost and is subscribed again: what was published meanwhile is gone, so read what you follow.
   *
   *   publish 1 → delivered; connection lost; publish 2 → nobody; connection back, subscribed; onGap()
   */
  onGap?(): void;
}

export interface Subscriber {
  /** Resolves when the server has confirmed the channel: what is published after that arrives. Throws REDIS_UNAVAILABLE. */
  subscribe(channel: string, listener: SubscriptionListener): Promise<Subscription>;
  /** Channels with a listener now. */
  channels(): number;
  close(): Promise<void>;
}

interface Channel {
  readonly listeners: Set<SubscriptionListener>;
  /** Of the SUBSCRIBE under way or done on this connection. */
  confirmed: Promise<void>;
}

/**
 * One connection for every subscription of the process. After a reconnect all channels are subscribed again, then each
 * listener's onGap runs. A connection that is open and silent is found by a ping every five seconds.
 */
export function openSubscriber(
  client: Client,
  { log, readyTimeoutMs }: { log: Logger; readyTimeoutMs: number },
): Subscriber {
  const channels = new Map<string, Channel>();
  let connectedBefore = false;
  // The order of commands on the one connection is what decides between an UNSUBSCRIBE and a later SUBSCRIBE.
  const send = async (command: 'subscribe' | 'unsubscribe', names: string[]): Promise<void> => {
    await client[command](...names);
  };

  /** On a connection that is just opening, the `ready` listener below subscribes; this waits for it. */
  const first = async (name: string): Promise<void> => {
    if (client.status === 'ready') return send('subscribe', [name]);
    await whenReady(client, readyTimeoutMs);
    await channels.get(name)?.confirmed;
  };

  client.on('message', (name: string, message: string) => {
    for (const listener of channels.get(name)?.listeners ?? []) listener.onMessage(message);
  });

  // `autoResubscribe` is off: ioredis tells nobody when it is confirmed, and a gap must not be reported before.
  client.on('ready', () => {
    const again = connectedBefore;
    connectedBefore = true;
    const names = [...channels.keys()];
    if (names.length === 0) return;
    const confirmed = send('subscribe', names);
    for (const channel of channels.values()) channel.confirmed = confirmed;
    confirmed.then(
      () => {
        if (again)
          for (const channel of [...channels.values()]) for (const each of channel.listeners) each.onGap?.();
      },
      (error: unknown) => {
        log.warning('redis.resubscribe_failed', { error });
        client.disconnect(true);
      },
    );
  });

  // ioredis gives a socket up that owes an answer for too long; a connection that only listens owes none, but for this.
  const ping = setInterval(() => {
    if (client.status === 'ready') client.ping().catch(() => undefined);
  }, 5000).unref();

  const leave = async (name: string, listener: SubscriptionListener): Promise<void> => {
    const channel = channels.get(name);
    if (channel === undefined || !channel.listeners.delete(listener) || channel.listeners.size > 0) return;
    channels.delete(name);
    // A lost connection has no subscriptions, and the next one makes only those still in the map.
    if (client.status === 'ready') await send('unsubscribe', [name]).catch(() => undefined);
  };

  return {
    async subscribe(name, listener) {
      let channel = channels.get(name);
      if (channel === undefined) {
        channel = { listeners: new Set(), confirmed: first(name) };
        channels.set(name, channel);
      }
      channel.listeners.add(listener);
      try {
        await channel.confirmed;
      } catch (error) {
        await leave(name, listener);
        throw asRedisFault(error);
      }
      return { end: () => leave(name, listener) };
    },
    channels: () => channels.size,
    async close() {
      clearInterval(ping);
      channels.clear();
      client.disconnect();
    },
  };
}
