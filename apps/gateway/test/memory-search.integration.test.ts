import { newId } from '@signalbox/contracts/ids';
import type { Memory } from '@signalbox/contracts/memory-recall';
import { fault } from '@signalbox/faults/fault';
import { openAnswerer } from '@signalbox/messaging/answerer';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type GatewayFixture, gatewayFixture } from './gateway-fixture.ts';
import { type OtherService, otherService } from './other-services.ts';

/** Questions for memories, answered over Kafka by a stand-in for memory-replicator. */

let fixture: GatewayFixture;
let gateway: SpawnedService;
let replicator: OtherService;
let acme: string;
let globex: string;
/** What was asked, oldest first. */
let asked: { tenant: string; eventType: string; value: Record<string, unknown> }[] = [];
/** How the stand-in behaves; throws to refuse, `silent` to say nothing. */
let behave: (n: number) => 'silent' | undefined = () => undefined;
let memories: readonly Memory[] = [];

beforeAll(async () => {
  fixture = await gatewayFixture();
  gateway = await fixture.start();
  ({ acme, globex } = fixture.keys);
  replicator = otherService(fixture, 'memory-replicator');
  const never = new Promise<never>(() => undefined);
  const take = (record: { tenant: string; eventType: string; value: Record<string, unknown> }) => {
    const { tenant, eventType, value } = record;
    asked.push({ tenant, eventType, value });
    return behave(asked.length);
  };
  openAnswerer({
    ...replicator,
    requests: 'memory.recall.requests',
    results: 'memory.recall.results',
    refused: 'memory.refused',
    concurrency: 64,
    answers: {
      'memory.recall_requested': async (record) => {
        if (take(record) === 'silent') await never;
        const found = [{ ...memory(1), text: `of ${record.tenant}`, score: 0.5 }];
        return { eventType: 'memory.recalled', value: { memories: found, took_ms: 1.5 } };
      },
      'memory.page_requested': async (record) => {
        if (take(record) === 'silent') await never;
        const { after, limit } = record.value;
        const from = after === undefined ? 0 : memories.findIndex(({ memory_id }) => memory_id === after) + 1;
        const page = memories.slice(from, from + limit);
        const last = page.at(-1);
        const more = from + limit < memories.length && last !== undefined;
        return {
          eventType: 'memory.page',
          value: { memories: page, ...(more ? { next_after: last.memory_id } : {}) },
        };
      },
    },
  });
  await waitFor(
    () => search({ query: 'hello' }),
    ({ status }) => status === 200,
    { label: 'an answer', timeoutMs: 20_000 },
  );
});
afterAll(async () => {
  await replicator?.messaging.close();
  await fixture?.close();
});
beforeEach(() => {
  asked = [];
  behave = () => undefined;
  memories = [];
});

function memory(n: number, text = `memory ${n}`): Memory {
  return {
    memory_id: `00000000-0000-7000-8000-${n.toString(16).padStart(12, '0')}`,
    version: 1,
    namespace: 'default',
    role: 'note',
    text,
    occurred_at: '2026-03-01T10:00:00.000Z',
    metadata: { n },
  };
}

const search = (body: Record<string, unknown>, key = acme, service = gateway) =>
  call<{ memories: { text: string; score: number }[]; error_code?: string }>(service, '/v1/memory/search', {
    key,
    body,
  });

describe('a search', () => {
  it('asks with what it was given, and answers with what fits', async () => {
    const sessionId = newId();
    const { status, body } = await search({
      query: 'French',
      namespaces: ['people'],
      roles: ['note'],
      session_id: sessionId,
      limit: 3,
      min_score: 0.2,
    });
    expect(status).toBe(200);
    expect(body).toMatchObject({
      memories: [{ memory_id: memory(1).memory_id, score: 0.5, metadata: { n: 1 } }],
      took_ms: 1.5,
    });
    expect(asked).toMatchObject([
      {
        tenant: 'acme',
        eventType: 'memory.recall_requested',
        value: {
          query: 'French',
          namespaces: ['people'],
          roles: ['note'],
          session_id: sessionId,
          limit: 3,
          min_score: 0.2,
        },
      },
    ]);
  });

  it('is asked and answered for its own tenant, many beside each other', async () => {
    const answers = await Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        const key = i % 2 === 0 ? acme : globex;
        return { key, text: (await search({ query: 'x' }, key)).body.memories[0]?.text };
      }),
    );
    for (const { key, text } of answers) expect(text).toBe(key === acme ? 'of acme' : 'of globex');
  });

  it('gives up after two seconds when nobody answers', async () => {
    behave = () => 'silent';
    const beganAt = performance.now();
    expect(await search({ query: 'x' })).toMatchObject({
      status: 504,
      body: { error_code: 'OWNER_TIMEOUT' },
    });
    expect(performance.now() - beganAt).toBeLessThan(4_000);
  });

  it('tells why it was refused', async () => {
    behave = () => {
      throw fault('VALIDATION_ERROR', 'too many words');
    };
    expect(await search({ query: 'x' })).toMatchObject({
      status: 422,
      body: { error_code: 'VALIDATION_ERROR', message: 'too many words' },
    });
  });

  it('is refused at the place that does not fit, before anybody is asked', async () => {
    for (const body of [
      {},
      { query: '' },
      { query: 'x', limit: 0 },
      { query: 'x', limit: 51 },
      { query: 'x', min_score: 2 },
      { query: 'x', roles: ['boss'] },
      { query: 'x', namespaces: [] },
      { query: 'x', extra: 1 },
    ])
      expect.soft((await search(body)).status, JSON.stringify(body)).toBe(422);
    expect((await search({ query: 'x', session_id: 'mine' })).status).toBe(404);
    expect((await call(gateway, '/v1/memory/search', { body: { query: 'x' } })).status).toBe(401);
    expect(asked).toEqual([]);
  });
});

describe('an export', () => {
  const path = '/v1/memory/export';
  const open = (query = '', signal: AbortSignal | null = null, service = gateway) =>
    fetch(`${service.url}${path}${query}`, { headers: { 'x-api-key': acme }, signal });
  const linesOf = (text: string) =>
    text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Record<string, unknown>);

  it('sends ten thousand memories as lines, and no more of them than a reader takes', async () => {
    const text = 'x'.repeat(4_000);
    memories = Array.from({ length: 10_000 }, (_, i) => memory(i + 1, text));
    const before = (await gateway.metric('memory_usage_bytes')) ?? 0;
    const response = await open();
    expect(response.headers.get('content-type')).toMatch(/^application\/x-ndjson/);
    const reader = response.body?.getReader();
    // It reads nothing: what is asked for comes to rest, with the buffers of the sockets full.
    let rest = -1;
    await waitFor(
      async () => {
        const last = rest;
        rest = asked.length;
        for (let i = 0; i < 5; i += 1) await call(gateway, '/v1/sessions', { key: acme });
        return rest === last;
      },
      (same) => same,
      { label: 'no further question', intervalMs: 300 },
    );
    expect(rest).toBeLessThan(30);
    const parts: Uint8Array[] = [];
    for (;;) {
      const { done, value } = (await reader?.read()) ?? { done: true };
      if (done || value === undefined) break;
      parts.push(value);
    }
    const lines = linesOf(Buffer.concat(parts).toString('utf8'));
    expect(lines).toHaveLength(10_001);
    expect(lines[4_999]).toEqual(memory(5_000, text));
    expect(lines.at(-1)).toEqual({ end: true, count: 10_000 });
    expect(asked).toHaveLength(50);
    const after = (await gateway.metric('memory_usage_bytes')) ?? 0;
    expect((after - before) / 1_048_576).toBeLessThan(100);
  }, 60_000);

  it('asks for what it was told to, and says when that is nothing', async () => {
    const sessionId = newId();
    const text = await (await open(`?namespace=people&session_id=${sessionId}`)).text();
    expect(text).toBe('{"end":true,"count":0}\n');
    expect(asked[0]).toMatchObject({
      tenant: 'acme',
      eventType: 'memory.page_requested',
      value: { namespaces: ['people'], session_id: sessionId },
    });
    expect((await open('?namespace=No')).status).toBe(422);
    expect((await open('?session_id=mine')).status).toBe(404);
  });

  it('stops asking when its client is gone', async () => {
    memories = Array.from({ length: 4_000 }, (_, i) => memory(i + 1, 'x'.repeat(4_000)));
    behave = (n) => (n === 4 ? 'silent' : undefined);
    const gone = new AbortController();
    const response = await open('', gone.signal);
    await response.body?.getReader().read();
    await waitFor(
      () => asked.length,
      (n) => n === 4,
      { label: 'the fourth page asked for' },
    );
    gone.abort();
    await gateway.log('http.request', ({ path: of }) => of === path);
    behave = () => undefined;
    await search({ query: 'behind it' });
    expect(asked.filter(({ eventType }) => eventType === 'memory.page_requested')).toHaveLength(4);
  });

  it('does not end like a whole one when the memories do not answer half-way', async () => {
    memories = Array.from({ length: 1_000 }, (_, i) => memory(i + 1));
    behave = (n) => {
      if (n > 2) throw fault('INTERNAL_ERROR', 'broken');
      return undefined;
    };
    const response = await open();
    expect(response.status).toBe(200);
    let text = '';
    await expect(
      (async () => {
        for await (const part of response.body ?? []) text += Buffer.from(part).toString('utf8');
      })(),
    ).rejects.toThrow();
    expect(text).not.toContain('"end"');
    await gateway.log('memory.export_cut', ({ memories: sent }) => sent === 400);
  });

  it('is one of four of its tenant at once', async () => {
    memories = Array.from({ length: 8_000 }, (_, i) => memory(i + 1, 'x'.repeat(4_000)));
    const gone = new AbortController();
    const four = await Promise.all(Array.from({ length: 4 }, () => open('', gone.signal)));
    expect(four.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    const fifth = await open();
    expect(fifth.status).toBe(429);
    expect(Number(fifth.headers.get('retry-after'))).toBeGreaterThan(0);
    gone.abort();
    memories = [];
    await waitFor(open, ({ status }) => status === 200, { label: 'a place' });
  });

  it('survives an answer that is lost', async () => {
    memories = Array.from({ length: 450 }, (_, i) => memory(i + 1));
    behave = (n) => (n === 2 ? 'silent' : undefined);
    const lines = linesOf(await (await open()).text());
    expect(lines).toHaveLength(451);
    expect(asked).toHaveLength(4);
  });
});
