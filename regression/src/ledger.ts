import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { waitFor } from '@signalbox/testkit/wait';
import type { Cluster } from './cluster.ts';
import { follow } from './follower.ts';
import { type MessageKind, makeMessage, messageKinds } from './messages.ts';
import { faultsOf, longestGapMs, type PlainEvent, type Readings } from './promise.ts';
import { send } from './request.ts';
import { startTalk, type Talk } from './talk.ts';

/** What a run of traffic came to; docs quote these. */
export interface Figures {
  readonly sessions: number;
  readonly accepted: number;
  readonly finals: number;
  /** Turns that at least once were taken over or tried again. */
  readonly resumedTurns: number;
  /** Tries of posts after their first, and those of them that followed on a 429 or 503. */
  readonly postRetries: number;
  readonly postRefusals: number;
  readonly reconnects: number;
  readonly toolRuns: number;
  /** Calls of tools that may run once only, told as `unknown`. */
  readonly unknownCalls: number;
  /** The longest time a client with an open turn heard nothing. */
  readonly longestGapMs: number;
  /** The longest time from a 202 to the end of its turn. */
  readonly longestTurnMs: number;
}

export interface Traffic {
  readonly sessions: number;
  /** Of each session; `Infinity` for as many as go out until it is told to end. */
  readonly messages: number;
  /** No message is posted after it has aborted. */
  readonly until?: AbortSignal;
  /** Taken in turn. All when left out. */
  readonly kinds?: readonly MessageKind[];
  readonly toolMs?: number;
  readonly words?: number;
  /** Pause between a 202 and the next post of the session; 0 lets turns queue. */
  readonly pauseMs?: number;
}

export interface Ledger {
  readonly talks: readonly Talk[];
  /** A session of a tenant (0 or 1) that the ledger answers for; nothing is posted yet. */
  open(tenant?: 0 | 1, options?: { readonly hopAfter?: number }): Talk;
  /**
   * Sessions of both tenants, all at once, each posting its messages one after the other without waiting for answers.
   * Every third session changes its replica after every five events. Resolves when every message has its 202.
   */
  traffic(traffic: Traffic): Promise<void>;
  /** Waits until the end of every accepted message was seen by its follower. */
  ended(timeoutMs?: number): Promise<void>;
  /** Holds everything so far against the promise. Throws with every fault; resolves with the figures. */
  check(): Promise<Figures>;
  close(): void;
}

/** Keeps what clients were promised and what they got. */
export function createLedger(cluster: Cluster): Ledger {
  const talks: Talk[] = [];
  const { url } = cluster.balancer;

  const open: Ledger['open'] = (tenant = 0, options = {}) => {
    const talk = startTalk({ url, tenant: cluster.tenants[tenant], ...options });
    talks.push(talk);
    return talk;
  };

  async function ended(timeoutMs = 30_000): Promise<void> {
    await waitFor(
      () =>
        talks.flatMap((talk) =>
          talk.open().map(({ turnId, message }) => ({ session: talk.sessionId, turnId, kind: message.kind })),
        ),
      (left) => left.length === 0,
      { timeoutMs, intervalMs: 25, label: 'the end of every accepted message' },
    );
  }

  return {
    talks,
    open,
    async traffic({ sessions, messages, kinds = messageKinds, pauseMs = 0, toolMs, words, until }) {
      const options = {
        toolLog: cluster.toolLog,
        ...(toolMs === undefined ? {} : { toolMs }),
        ...(words === undefined ? {} : { words }),
      };
      await Promise.all(
        Array.from({ length: sessions }, async (_, session) => {
          const talk = open(session % 2 === 0 ? 0 : 1, session % 3 === 0 ? { hopAfter: 5 } : {});
          for (let index = 0; index < messages && until?.aborted !== true; index += 1) {
            const kind = kinds[(session + index) % kinds.length] ?? 'plain';
            await talk.say(makeMessage(kind, options));
            if (pauseMs > 0)
              await delay(pauseMs, undefined, { ...(until && { signal: until }) }).catch(() => undefined);
          }
        }),
      );
    },
    ended,
    async check() {
      await ended();
      await cluster.settle();
      const faults: string[] = [];
      for (const talk of talks) {
        if (talk.sessionId === undefined) continue;
        const readings = await readAgain(cluster, talk, talk.sessionId);
        faults.push(...faultsOf(talk, readings), ...(talk.follower?.refusals ?? []));
      }
      faults.push(...(await closedToOthers(cluster, talks)), ...toolFaults(cluster, talks));
      faults.push(...(await workLeft(cluster)));
      if (faults.length > 0) {
        const more = faults.length > 20 ? `\n… ${faults.length} in all` : '';
        throw new Error(`the promise was broken:\n${faults.slice(0, 20).join('\n')}${more}`);
      }
      return figuresOf(cluster, talks);
    },
    close() {
      for (const talk of talks) talk.close();
    },
  };
}

/** What readers get who come when all is over. */
async function readAgain(cluster: Cluster, talk: Talk, sessionId: string): Promise<Readings> {
  const { url } = cluster.balancer;
  const { key } = talk.tenant;
  const union = talk.follower?.events ?? [];
  const reader = follow({ url, key, sessionId, lastEventId: '0-0' });
  const last = union.at(-1)?.id;
  // Reaching the last id is reaching the end; a stream without it is told by the comparison.
  await waitFor(
    () => reader.events.some(({ id }) => id === last),
    (reached) => reached,
    { timeoutMs: 5_000 },
  ).catch(() => undefined);
  reader.close();
  const stored: PlainEvent[] = [];
  for (let after = '0-0'; ; ) {
    const answer = await send(`${url}/v1/sessions/${sessionId}/events?limit=1000&after=${after}`, { key });
    if (answer.status !== 200)
      throw new Error(`the stored page was answered ${answer.status}: ${answer.body}`);
    const page: {
      events: { id: string; event: string; data: PlainEvent['data'] }[];
      next_after: string | null;
    } = JSON.parse(answer.body);
    stored.push(...page.events.map(({ id, event, data }) => ({ id, type: event, data })));
    if (page.next_after === null) break;
    after = page.next_after;
  }
  return { union, fresh: reader.events, stored };
}

/** No session is there for the other tenant. */
async function closedToOthers(cluster: Cluster, talks: readonly Talk[]): Promise<string[]> {
  const { url } = cluster.balancer;
  const faults: string[] = [];
  for (const talk of talks.slice(0, 4)) {
    const other = cluster.tenants.find(({ tenant }) => tenant !== talk.tenant.tenant);
    if (other === undefined || talk.sessionId === undefined) continue;
    for (const path of [`/v1/session/${talk.sessionId}/events`, `/v1/sessions/${talk.sessionId}/events`]) {
      const { status } = await send(`${url}${path}`, { key: other.key });
      if (status !== 404) faults.push(`${other.tenant} was answered ${status} for ${path}`);
    }
  }
  return faults;
}

function toolRuns(cluster: Cluster): ReadonlyMap<string, number> {
  const runs = new Map<string, number>();
  if (!existsSync(cluster.toolLog)) return runs;
  for (const line of readFileSync(cluster.toolLog, 'utf8').split('\n').filter(Boolean))
    runs.set(line, (runs.get(line) ?? 0) + 1);
  return runs;
}

/** A tool that may run once ran at most once, and once if it is told as done; any tool that is told as done did run. */
function toolFaults(cluster: Cluster, talks: readonly Talk[]): string[] {
  const runs = toolRuns(cluster);
  const faults: string[] = [];
  for (const talk of talks) {
    for (const { message, turnId } of talk.accepted) {
      if (message.tool === undefined) continue;
      const times = runs.get(`${message.tool} ${message.token}`) ?? 0;
      const results = resultsOf(talk, turnId);
      const say = (what: string) => faults.push(`turn ${turnId} (${message.kind} ${message.token}): ${what}`);
      if (message.tool === 'count_once' && times > 1) say(`${message.tool} ran ${times} times`);
      if (results.includes('ok') && times === 0) say(`${message.tool} is told as done and never ran`);
      // One that was cancelled or rejected may have come to its tool, or not.
      if (message.mayEnd.some((end) => end !== 'assistant.final')) continue;
      if (results.length !== 1) say(`${message.tool} has ${results.length} results`);
      if (message.tool === 'count' && !results.includes('ok')) say(`${message.tool} is told as ${results}`);
    }
  }
  return faults;
}

function resultsOf(talk: Talk, turnId: string): string[] {
  return (talk.follower?.events ?? [])
    .filter(({ type, data }) => type === 'tool.result' && data.turn_id === turnId)
    .map(({ data }) => String(data.outcome));
}

/** The gauges that operators look at agree that nothing waits. */
async function workLeft(cluster: Cluster): Promise<string[]> {
  const faults: string[] = [];
  for (const replica of [...cluster.workers, ...cluster.executors]) {
    if (!replica.running) continue;
    await waitFor(
      () => replica.metric('work_waiting'),
      (waiting) => waiting === 0,
      { timeoutMs: 10_000, intervalMs: 100, label: `work_waiting of ${replica.name}` },
    ).catch((error: unknown) => faults.push(String(error)));
  }
  return faults;
}

function figuresOf(cluster: Cluster, talks: readonly Talk[]): Figures {
  const all = talks.flatMap((talk) => talk.accepted.map((accepted) => ({ talk, accepted })));
  const eventsOf = (talk: Talk) => talk.follower?.events ?? [];
  const runs = toolRuns(cluster);
  const longest = (values: readonly number[]) => Math.round(values.reduce((a, b) => Math.max(a, b), 0));
  return {
    sessions: talks.filter(({ sessionId }) => sessionId !== undefined).length,
    accepted: all.length,
    finals: talks.flatMap(eventsOf).filter(({ type }) => type === 'assistant.final').length,
    resumedTurns: new Set(
      talks
        .flatMap(eventsOf)
        .filter(({ type }) => type === 'turn.resumed')
        .map(({ data }) => data.turn_id),
    ).size,
    postRetries: all.reduce((sum, { accepted }) => sum + accepted.retries, 0),
    postRefusals: all.reduce((sum, { accepted }) => sum + accepted.refusals, 0),
    reconnects: talks.reduce((sum, { follower }) => sum + (follower?.reconnects ?? 0), 0),
    toolRuns: all.reduce((sum, { accepted: { message } }) => {
      return sum + (runs.get(`${message.tool} ${message.token}`) ?? 0);
    }, 0),
    unknownCalls: all.filter(({ talk, accepted }) => resultsOf(talk, accepted.turnId).includes('unknown'))
      .length,
    longestGapMs: longest(talks.map((talk) => longestGapMs(talk.accepted, eventsOf(talk)))),
    longestTurnMs: longest(
      all.map(({ talk, accepted }) => {
        const end = eventsOf(talk).findLast(({ data }) => data.turn_id === accepted.turnId);
        return (end?.atMs ?? 0) - accepted.acceptedAtMs;
      }),
    ),
  };
}
