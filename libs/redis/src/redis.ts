import { fault } from '@signalbox/faults/fault';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { type ChainableCommander, Redis as Client } from 'ioredis';
import { asRedisFault } from './redis-faults.ts';
import { openSubscriber, type Subscriber } from './subscriber.ts';
import { whenReady } from './when-ready.ts';

export interface RedisOptions {
  /** redis://[[user]:password@]host:port[/db] or rediss:// */
  readonly url: string;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Name of the connections in CLIENT LIST. */
  readonly connectionName?: string;
  /** Connections for commands; the second and later ones open only under load. */
  readonly poolSize?: number;
  /** A command without an answer after this long is given up. */
  readonly commandTimeoutMs?: number;
  readonly connectTimeoutMs?: number;
  /** Reconnects wait a random part of a doubling time, at most this. */
  readonly reconnectCapMs?: number;
}

/** Runs one Lua script by its hash; the text is sent only to a server that does not know it. */
export type Script = (
  keys: readonly string[],
  args: readonly (string | number | Buffer)[],
) => Promise<unknown>;

export interface Redis {
  /** Runs commands on a pooled connection; typed by ioredis. Throws REDIS_UNAVAILABLE, or INTERNAL_ERROR for a refusal. */
  run<T>(work: (client: Client) => Promise<T>): Promise<T>;
  /**
   * Declares a script; `name` is what a log or a trace calls it. Without `keys` each call may have another number of them.
   * The reply's integers are numbers, its texts strings.
   */
  script(name: string, script: { keys?: number; lua: string }): Script;
  /** Sends many commands in one write and answers their results in order; the first refusal throws. */
  pipeline(fill: (pipeline: ChainableCommander) => void): Promise<unknown[]>;
  /** The one subscriber connection of the process, opened at the first call. */
  subscriber(): Subscriber;
  /** Resolves when commands can be sent, at once when they can. Throws REDIS_UNAVAILABLE after `timeoutMs`. */
  ready(timeoutMs: number): Promise<void>;
  /** For the readiness board: one PING on the first connection, within the command timeout. */
  probe(signal: AbortSignal): Promise<void>;
  /** Commands sent and not answered yet. */
  pending(): number;
  /** Closes every connection; what was not answered yet fails. Never waits longer than the command timeout. */
  close(): Promise<void>;
}

interface Connection {
  readonly client: Client;
  inFlight: number;
}

/** A further connection is opened when each open one has this many commands in flight. */
const crowded = 64;

/**
 * Opens Redis for a process. It may be away at that moment and at any later one: commands then fail at once with
 * REDIS_UNAVAILABLE (nothing is queued for a server that is away, so no memory grows and no command runs minutes late),
 * and the connection comes back by itself. A command that was sent and not answered is never sent again: only the
 * caller knows whether repeating it is harmless.
 */
export function openRedis(options: RedisOptions): Redis {
  const { url, log, metrics, connectionName = 'signalbox', poolSize = 10 } = options;
  const commandTimeoutMs = options.commandTimeoutMs ?? 1000;
  const failures = metrics.counter('redis_command_failures_total', {
    help: 'Commands that failed, by reason.',
    labels: ['reason'],
  });
  const scripts: { command: string; definition: { numberOfKeys?: number; lua: string } }[] = [];
  const connections: Connection[] = [];
  let closed = false;
  let subscriber: Subscriber | undefined;

  const connect = (role: string, resubscribe = true): Client => {
    const client = new Client(url, {
      autoResubscribe: resubscribe,
      connectionName: `${connectionName}-${role}`,
      connectTimeout: options.connectTimeoutMs ?? 1000,
      commandTimeout: commandTimeoutMs,
      // A peer that swallows packets closes nothing: without an answer for this long the socket is given up.
      socketTimeout: commandTimeoutMs * 2,
      keepAlive: 10_000,
      // ioredis' own queue for a server that is away has no limit, so there is none.
      enableOfflineQueue: false,
      maxRetriesPerRequest: 0,
      autoResendUnfulfilledCommands: false,
      maxLoadingRetryTime: 1000,
      retryStrategy: (times) => reconnectDelayMs(times, options.reconnectCapMs ?? 1000),
    });
    watch(client, role, log);
    return client;
  };

  const open = (): Connection => {
    const connection = { client: connect(`commands-${connections.length}`), inFlight: 0 };
    for (const { command, definition } of scripts) connection.client.defineCommand(command, definition);
    connections.push(connection);
    return connection;
  };
  const first = open();

  const pick = (): Connection => {
    let best: Connection | undefined;
    for (const each of connections) {
      if (each.client.status === 'ready' && (best === undefined || each.inFlight < best.inFlight))
        best = each;
    }
    if (best === undefined) return first;
    if (best.inFlight >= crowded && connections.length < poolSize) open();
    return best;
  };

  const run = async <T>(work: (client: Client) => Promise<T>): Promise<T> => {
    if (closed) throw fault('REDIS_UNAVAILABLE', 'Redis is closed');
    const connection = pick();
    connection.inFlight += 1;
    try {
      return await work(connection.client);
    } catch (error) {
      const failure = asRedisFault(error);
      failures.add(1, { reason: failure.code === 'REDIS_UNAVAILABLE' ? 'unavailable' : 'refused' });
      throw failure;
    } finally {
      connection.inFlight -= 1;
    }
  };

  return {
    run,

    script(name, { keys, lua }) {
      // ioredis puts commands on the client object: a prefix keeps a script from hiding a command of its own.
      const command = `script_${name}`;
      const definition = keys === undefined ? { lua } : { numberOfKeys: keys, lua };
      scripts.push({ command, definition });
      for (const { client } of connections) client.defineCommand(command, definition);
      return (keyList, args) => {
        if (keys !== undefined && keyList.length !== keys) {
          throw fault('INTERNAL_ERROR', `script ${name} takes ${keys} keys, was given ${keyList.length}`);
        }
        return run(async (client) => {
          const invoke: unknown = Reflect.get(client, command);
          if (typeof invoke !== 'function') throw new Error(`script ${name} is not defined`);
          const count = keys === undefined ? [keyList.length] : [];
          return await Promise.resolve(Reflect.apply(invoke, client, [...count, ...keyList, ...args]));
        });
      };
    },

    pipeline: (fill) =>
      run(async (client) => {
        // Checked here because ioredis keeps a pipeline of a closed connection in memory until it is back.
        if (client.status !== 'ready') throw new Error(`connection is ${client.status}`);
        const pipeline = client.pipeline();
        fill(pipeline);
        const replies = (await pipeline.exec()) ?? [];
        return replies.map(([error, value]) => {
          if (error) throw error;
          return value;
        });
      }),

    subscriber() {
      subscriber ??= openSubscriber(connect('subscriber', false), { log, readyTimeoutMs: commandTimeoutMs });
      return subscriber;
    },

    ready: (timeoutMs) => whenReady(first.client, timeoutMs),

    async probe(signal) {
      signal.throwIfAborted();
      try {
        await first.client.ping();
      } catch (error) {
        throw asRedisFault(error);
      }
    },

    pending: () => connections.reduce((sum, each) => sum + each.inFlight, 0),

    async close() {
      if (closed) return;
      closed = true;
      await subscriber?.close();
      await Promise.all(connections.map((each) => quit(each.client, commandTimeoutMs)));
    },
  };
}

/** Full jitter over a doubling time: 50, 100, 200 … capMs. Replicas that lost one server do not come back as one. */
export function reconnectDelayMs(times: number, capMs: number, random: () => number = Math.random): number {
  const bound = Math.min(capMs, 50 * 2 ** Math.min(times - 1, 20));
  return Math.max(1, Math.round(random() * bound));
}

/** Without an `error` listener a lost connection would end the process. One line per loss and per return, not per try. */
function watch(client: Client, role: string, log: Logger): void {
  let away = false;
  client.on('error', (error: unknown) => {
    if (away) return;
    away = true;
    log.warning('redis.unavailable', { role, error });
  });
  client.on('ready', () => {
    if (away) log.info('redis.restored', { role });
    away = false;
  });
  client.on('close', () => {
    if (away || client.status === 'end') return;
    away = true;
    log.warning('redis.unavailable', { role });
  });
}

async function quit(client: Client, timeoutMs: number): Promise<void> {
  if (client.status === 'ready') {
    let timer: NodeJS.Timeout | undefined;
    const bound = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs);
    });
    await Promise.race([client.quit().catch(() => undefined), bound]);
    clearTimeout(timer);
  }
  client.disconnect();
}
