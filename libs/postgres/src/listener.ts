import { pause } from '@signalbox/lifecycle/pause';
import type { Logger } from '@signalbox/telemetry/telemetry';
import pg from 'pg';
import { connectionConfig } from './connection-pool.ts';

type OnNotify = (payload: string) => void;

const firstDelayMs = 100;
const maxDelayMs = 5000;
/** A listening connection is silent by nature: it is asked at this pace whether it still answers. */
const askEveryMs = 10_000;
const askTimeoutMs = 3000;

/**
 * One connection for all LISTEN channels of the process, opened when the first channel is asked for. It reconnects with
 * full jitter until closed. A notification is a hint only: who listens polls as well.
 */
export class Listener {
  readonly #url: string;
  readonly #name: string;
  readonly #log: Logger;
  readonly #channels = new Map<string, Set<OnNotify>>();
  readonly #stop = new AbortController();
  #client: pg.Client | undefined;
  #loop: Promise<void> | undefined;

  constructor(url: string, name: string, log: Logger) {
    this.#url = url;
    this.#name = name;
    this.#log = log;
  }

  listen(channel: string, onNotify: OnNotify, signal: AbortSignal): void {
    if (signal.aborted || this.#stop.signal.aborted) return;
    const listeners = this.#channels.get(channel) ?? new Set();
    const isNew = listeners.size === 0;
    listeners.add(onNotify);
    this.#channels.set(channel, listeners);
    signal.addEventListener('abort', () => listeners.delete(onNotify), { once: true });
    this.#loop ??= this.#run();
    const client = this.#client;
    if (isNew && client !== undefined) {
      this.#subscribe(client, channel).catch(() => client.end());
    }
  }

  async #subscribe(client: pg.Client, channel: string): Promise<void> {
    await client.query(`LISTEN ${pg.escapeIdentifier(channel)}`);
    for (const onNotify of this.#channels.get(channel) ?? []) this.#call(onNotify, '');
  }

  #call(onNotify: OnNotify, payload: string): void {
    try {
      onNotify(payload);
    } catch (error) {
      this.#log.error('database.listener_failed', { error });
    }
  }

  async #run(): Promise<void> {
    let delayMs = firstDelayMs;
    while (!this.#stop.signal.aborted) {
      try {
        await this.#connection(() => {
          delayMs = firstDelayMs;
        });
      } catch (error) {
        if (!this.#stop.signal.aborted) this.#log.warning('database.listener_lost', { error });
      }
      await pause(Math.random() * delayMs, this.#stop.signal);
      delayMs = Math.min(delayMs * 2, maxDelayMs);
    }
  }

  /** One life of the connection; returns or throws when it is over. */
  async #connection(onReady: () => void): Promise<void> {
    const client = new pg.Client(
      Object.assign(connectionConfig(this.#url, this.#name), {
        statement_timeout: askTimeoutMs,
        query_timeout: askTimeoutMs,
        pipeline: true,
      }),
    );
    let lost: unknown;
    const over = new AbortController();
    client.on('error', (error) => {
      lost = error;
      over.abort();
    });
    client.on('end', () => over.abort());
    client.on('notification', ({ channel, payload }) => {
      for (const onNotify of this.#channels.get(channel) ?? []) this.#call(onNotify, payload ?? '');
    });
    try {
      await client.connect();
      this.#client = client;
      for (const channel of [...this.#channels.keys()]) await this.#subscribe(client, channel);
      onReady();
      const either = AbortSignal.any([over.signal, this.#stop.signal]);
      while (!either.aborted) {
        await pause(askEveryMs, either);
        if (!either.aborted) await client.query('SELECT 1');
      }
      if (lost !== undefined) throw lost;
    } finally {
      this.#client = undefined;
      client.end().catch(() => undefined);
    }
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#loop;
  }
}
