import { Agent, request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { isTerminalEvent } from '@signalbox/contracts/conversation-outbound';
import { newId } from '@signalbox/contracts/ids';
import { waitFor } from '@signalbox/testkit/wait';
import type { Cluster, Tenant } from './cluster.ts';
import { type Answer, headersOf, send } from './request.ts';

export interface ConstantLoad {
  /** Requests that were answered as they should be. */
  readonly answered: number;
  /** All others, in words. Nothing was tried again. */
  readonly failures: readonly string[];
  readonly latenciesMs: readonly number[];
  /** Ends the load; resolves when its last request has its answer. */
  stop(): Promise<void>;
  /** Waits until each turn that was accepted has its one end; throws with those that have not. */
  checkTurns(): Promise<{ turns: number }>;
}

const keptPosters = 4;
const postEveryMs = 250;
const lookEveryMs = 150;

/**
 * Clients that never try again, so that a replica which lets one down is seen: some post on connections they keep, some
 * read pages and some open streams on a connection of their own for each request.
 */
export function startConstantLoad(cluster: Cluster): ConstantLoad {
  const { url } = cluster.balancer;
  const stopping = new AbortController();
  const failures: string[] = [];
  const latenciesMs: number[] = [];
  const sessions: { tenant: Tenant; sessionId: string; turns: string[] }[] = [];
  let answered = 0;

  async function count(what: string, status: number, ask: () => Promise<{ status: number; body?: string }>) {
    const startedAt = performance.now();
    try {
      const answer = await ask();
      if (answer.status !== status) throw new Error(`${answer.status} ${answer.body ?? ''}`);
      answered += 1;
      latenciesMs.push(performance.now() - startedAt);
      return answer;
    } catch (error) {
      const at = new Date().toISOString();
      failures.push(`${at} ${what}: ${error instanceof Error ? error.message : String(error)}`);
      return undefined;
    }
  }

  async function every(ms: number, step: () => Promise<unknown>): Promise<void> {
    while (!stopping.signal.aborted) {
      const next = performance.now() + ms;
      await step();
      const leftMs = Math.max(0, next - performance.now());
      await delay(leftMs, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  }

  async function poster(index: number): Promise<void> {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const tenant = cluster.tenants[index % 2 === 0 ? 0 : 1];
    const own: { tenant: Tenant; sessionId: string; turns: string[] } = { tenant, sessionId: '', turns: [] };
    await every(postEveryMs, async () => {
      let answer: Answer | undefined;
      const body = {
        message: `say load ${newId()} one two three`,
        ...(own.sessionId === '' ? {} : { session_id: own.sessionId }),
      };
      await count('POST on a kept connection', 202, async () => {
        answer = await send(`${url}/v1/session/message`, { key: tenant.key, agent, body, timeoutMs: 10_000 });
        return answer;
      });
      if (answer?.status !== 202) return;
      const ids: { session_id: string; turn_id: string } = JSON.parse(answer.body);
      if (own.sessionId === '') sessions.push(own);
      own.sessionId = ids.session_id;
      own.turns.push(ids.turn_id);
    });
    agent.destroy();
  }

  async function reader(): Promise<void> {
    await every(lookEveryMs, async () => {
      const of = sessions[Math.floor(Math.random() * sessions.length)];
      if (of === undefined) return;
      await count('GET of a page', 200, () =>
        send(`${url}/v1/sessions/${of.sessionId}/events?limit=10`, { key: of.tenant.key, timeoutMs: 10_000 }),
      );
    });
  }

  async function opener(): Promise<void> {
    await every(lookEveryMs, async () => {
      const of = sessions[Math.floor(Math.random() * sessions.length)];
      if (of === undefined) return;
      await count('opening of a stream', 200, () =>
        openStream(`${url}/v1/session/${of.sessionId}/events`, of.tenant.key),
      );
    });
  }

  const clients = Promise.all([
    ...Array.from({ length: keptPosters }, (_, index) => poster(index)),
    reader(),
    opener(),
  ]);

  return {
    get answered() {
      return answered;
    },
    failures,
    latenciesMs,
    async stop() {
      stopping.abort();
      await clients;
    },
    async checkTurns() {
      for (const { tenant, sessionId, turns } of sessions) {
        await waitFor(
          async () => {
            const ends = await endsOf(url, tenant, sessionId);
            return turns.filter((turn) => ends.filter((end) => end === turn).length !== 1);
          },
          (wrong) => wrong.length === 0,
          { timeoutMs: 30_000, intervalMs: 250, label: `one end of each turn of ${sessionId}` },
        );
      }
      return { turns: sessions.reduce((sum, { turns }) => sum + turns.length, 0) };
    },
  };
}

/** The turn of each stored terminal event. */
async function endsOf(url: string, tenant: Tenant, sessionId: string): Promise<string[]> {
  const ends: string[] = [];
  for (let after: string | null = '0-0'; after !== null; ) {
    const path = `/v1/sessions/${sessionId}/events?limit=1000&after=${after}`;
    const { body } = await send(`${url}${path}`, { key: tenant.key });
    const page: { events: { event: string; data: { turn_id: string } }[]; next_after: string | null } =
      JSON.parse(body);
    for (const { event, data } of page.events) if (isTerminalEvent(event)) ends.push(data.turn_id);
    after = page.next_after;
  }
  return ends;
}

/** Resolves at the head of the answer, and leaves. */
function openStream(url: string, key: string): Promise<{ status: number }> {
  return new Promise((resolve, reject) => {
    const outgoing = request(url, {
      agent: false,
      headers: headersOf(key, { accept: 'text/event-stream' }),
      timeout: 10_000,
    });
    outgoing.on('timeout', () => outgoing.destroy(new Error('no answer in 10 s')));
    outgoing.on('error', reject);
    outgoing.on('response', (response) => {
      response.on('error', () => undefined);
      resolve({ status: response.statusCode ?? 0 });
      outgoing.destroy();
    });
    outgoing.end();
  });
}
