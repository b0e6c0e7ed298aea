import { newId } from '@signalbox/contracts/ids';
import { type Job, type JobRequested, jobsCommandsSchema } from '@signalbox/contracts/jobs';
import { idKey } from '@signalbox/contracts/keys';
import { isFault } from '@signalbox/faults/fault';
import { openAnswerer } from '@signalbox/messaging/answerer';
import { type Asker, openAsker } from '@signalbox/messaging/asker';
import { askUpkeep } from '@signalbox/messaging/upkeep';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { finalEvent, type GatewayFixture, gatewayFixture, post, turnEvents } from './gateway-fixture.ts';
import { type OtherService, otherService } from './other-services.ts';

/** Jobs, with a stand-in for job-worker at the other end of jobs.commands and jobs.results. */

let fixture: GatewayFixture;
let gateway: SpawnedService;
let worker: OtherService;
let asker: Asker<'jobs.commands', 'jobs.results'>;
let acme: string;
let globex: string;
/** Jobs that were asked for, in the order of the log. */
let requested: { key: string; tenant: string; value: JobRequested }[] = [];
let jobs: Job[] = [];
let silent = false;

beforeAll(async () => {
  fixture = await gatewayFixture();
  gateway = await fixture.start();
  ({ acme, globex } = fixture.keys);
  worker = otherService(fixture, 'job-worker');
  const never = new Promise<never>(() => undefined);
  openAnswerer({
    ...worker,
    requests: 'jobs.commands',
    results: 'jobs.results',
    refused: 'jobs.refused',
    concurrency: 16,
    answers: {
      'jobs.asked': async ({ value: { job_id: id, before, limit } }) => {
        if (silent) await never;
        const all = jobs.filter((job) => (id ?? job.job_id) === job.job_id);
        const behind = all.filter((job) => before === undefined || job.job_id < before);
        return {
          eventType: 'jobs.listed',
          value: {
            jobs: behind.slice(0, limit),
            schedules: [{ name: 'notifications', pattern: '0 * * * *' }],
          },
        };
      },
    },
    others: {
      eventTypes: ['job.requested'],
      async handler(records) {
        for (const { key, tenant, value } of records)
          requested.push({ key, tenant, value: value as JobRequested });
      },
    },
  });
  asker = openAsker({ ...worker, requests: 'jobs.commands', results: 'jobs.results' });
  await waitFor(
    () => call(gateway, '/v1/jobs', { key: acme }),
    ({ status }) => status === 200,
    { label: 'an answer', timeoutMs: 20_000 },
  );
});
afterAll(async () => {
  await worker?.messaging.close();
  await fixture?.close();
});
beforeEach(() => {
  requested = [];
  jobs = [];
  silent = false;
});

function job(more: Partial<Job> = {}): Job {
  return {
    job_id: newId(),
    kind: 'export_session',
    status: 'waiting',
    attempts: 0,
    arguments: {},
    requested_at: new Date().toISOString(),
    ...more,
  };
}

const write = (path: string, body?: object, headers: Record<string, string> = {}, key = acme) =>
  call(gateway, path, { key, method: 'POST', headers, ...(body === undefined ? {} : { body }) });

const inLog = (jobId: unknown) =>
  waitFor(
    () => requested.filter(({ value }) => value.job_id === jobId),
    (found) => found.length > 0,
    { label: 'the job in the log' },
  );

describe('jobs', () => {
  it('are listed by job-worker, page by page, with its schedules', async () => {
    jobs = [job(), job(), job({ status: 'done', result: { url: 'https://x' } })].reverse();
    const first = await call(gateway, '/v1/jobs?limit=2', { key: acme });
    expect(first).toMatchObject({
      status: 200,
      body: { jobs: jobs.slice(0, 2), schedules: [{ name: 'notifications' }], next_before: jobs[1]?.job_id },
    });
    const second = await call(gateway, `/v1/jobs?limit=2&before=${jobs[1]?.job_id}`, { key: acme });
    expect(second.body).toMatchObject({ jobs: jobs.slice(2), next_before: null });
    expect((await call(gateway, '/v1/jobs?before=x', { key: acme })).status).toBe(400);
  });

  it('are looked at one by one', async () => {
    jobs = [job({ status: 'failed', error: 'disk full' })];
    const [one] = jobs;
    expect(await call(gateway, `/v1/jobs/${one?.job_id}`, { key: acme })).toMatchObject({
      status: 200,
      body: { ...one },
    });
    for (const id of [newId(), 'nothing'])
      expect(await call(gateway, `/v1/jobs/${id}`, { key: acme })).toMatchObject({ status: 404 });
  });

  it('cannot be told of while job-worker is silent, for two seconds at most', async () => {
    silent = true;
    const beganAt = performance.now();
    const answers = await Promise.all(
      ['/v1/jobs', `/v1/jobs/${newId()}`].map((path) => call(gateway, path, { key: acme })),
    );
    for (const answer of answers)
      expect(answer).toMatchObject({ status: 504, body: { error_code: 'OWNER_TIMEOUT' } });
    expect(performance.now() - beganAt).toBeLessThan(4_000);
  });
});

describe('an export that is asked for', () => {
  it('of a session is one job for its key, and only of a session of the tenant', async () => {
    const { session_id: sessionId } = (await post(gateway, acme, { message: 'hello' })).body;
    const path = `/v1/sessions/${sessionId}/export`;
    const headers = { 'idempotency-key': newId() };
    const first = await write(path, undefined, headers);
    expect(first.status).toBe(202);
    expect(first.headers.get('location')).toBe(`/v1/jobs/${first.body.job_id}`);
    const again = await write(path, undefined, headers);
    expect(again.body).toEqual(first.body);
    expect(again.headers.get('location')).toBe(first.headers.get('location'));
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    const [record] = await inLog(first.body.job_id);
    expect(record).toMatchObject({
      key: `acme:${first.body.job_id}`,
      tenant: 'acme',
      value: { kind: 'export_session', arguments: { session_id: sessionId } },
    });
    const other = await write(path);
    await inLog(other.body.job_id);
    expect(new Set(requested.map(({ value }) => value.job_id)).size).toBe(2);
    expect((await write(path, undefined, {}, globex)).status).toBe(404);
    for (const id of [newId(), 'mine']) expect((await write(`/v1/sessions/${id}/export`)).status).toBe(404);
  });

  it('of memories carries what it is to hold', async () => {
    const body = { namespaces: ['people'], session_id: newId() };
    const headers = { 'idempotency-key': newId() };
    const first = await write('/v1/memory/exports', body, headers);
    expect(first.status).toBe(202);
    expect((await write('/v1/memory/exports', body, headers)).body).toEqual(first.body);
    expect((await write('/v1/memory/exports', {}, headers)).status).toBe(422);
    const [record] = await inLog(first.body.job_id);
    expect(record?.value).toMatchObject({ kind: 'export_memory', arguments: body });
    for (const bad of [{ namespaces: [] }, { namespaces: ['No'] }, { extra: 1 }])
      expect.soft((await write('/v1/memory/exports', bad)).status).toBe(422);
    expect((await write('/v1/memory/exports', { session_id: 'mine' })).status).toBe(404);
  });
});

describe('what job-worker has done here', () => {
  const page = async (tenant: string, sessionId: string, limit: number, after?: string) => {
    const value = { session_id: sessionId, limit, ...(after === undefined ? {} : { after }) };
    const answer = await asker.ask({
      tenant,
      key: idKey(tenant, newId()),
      eventType: 'session.page_asked',
      schema: jobsCommandsSchema,
      value,
      deadlineMs: 5_000,
    });
    if (answer.eventType === 'jobs.refused') return answer.value;
    if (answer.eventType !== 'session.page') throw new Error(answer.eventType);
    return answer.value;
  };

  async function whole(sessionId: string, limit: number) {
    const rows: Record<string, unknown>[] = [];
    let after: string | undefined;
    let pages = 0;
    do {
      const answer = await page('acme', sessionId, limit, after);
      if (!('rows' in answer)) throw new Error(answer.error_code);
      rows.push(...answer.rows);
      after = answer.next_after;
      expect(after?.length ?? 0).toBeLessThanOrEqual(64);
      pages += 1;
    } while (after !== undefined && pages < 100);
    return { rows, pages };
  }

  it('reads a session in the order of its stream, whatever the length of a page, for its tenant alone', async () => {
    const first = (await post(gateway, acme, { message: 'one', metadata: { a: 1 } })).body;
    const { session_id: sessionId } = first;
    const stored = (n: number) =>
      waitFor(
        () => call<{ events: object[] }>(gateway, `/v1/sessions/${sessionId}/events`, { key: acme }),
        ({ body }) => body.events.length === n,
        { label: `${n} events` },
      );
    await fixture.publish('acme', sessionId, turnEvents(first.turn_id, ['1']));
    await stored(2);
    const second = (await post(gateway, acme, { message: 'two', session_id: sessionId })).body;
    const third = (await post(gateway, acme, { message: 'three', session_id: sessionId })).body;
    await fixture.publish('acme', sessionId, turnEvents(second.turn_id, ['2']));
    await fixture.publish('acme', sessionId, turnEvents(third.turn_id, ['3']));
    await stored(6);
    const fourth = (await post(gateway, acme, { message: 'four', session_id: sessionId })).body;
    const expected = [
      { kind: 'message', turn_id: first.turn_id, message: 'one', metadata: { a: 1 } },
      { kind: 'event', event: 'turn.started', data: { turn_id: first.turn_id } },
      { kind: 'event', event: 'assistant.final', data: { text: '1' } },
      { kind: 'message', turn_id: second.turn_id, message: 'two' },
      { kind: 'message', turn_id: third.turn_id, message: 'three' },
      { kind: 'event', event: 'turn.started', data: { turn_id: second.turn_id } },
      { kind: 'event', event: 'assistant.final', data: { text: '2' } },
      { kind: 'event', event: 'turn.started', data: { turn_id: third.turn_id } },
      { kind: 'event', event: 'assistant.final', data: { text: '3' } },
      { kind: 'message', turn_id: fourth.turn_id, message: 'four', accepted_at: expect.any(String) },
    ];
    for (const limit of [1, 2, 3, 4, 7, 10, 500])
      expect((await whole(sessionId, limit)).rows, `pages of ${limit}`).toMatchObject(expected);
    expect(await page('globex', sessionId, 10)).toMatchObject({ error_code: 'NOT_FOUND' });
    expect(await page('acme', newId(), 10)).toMatchObject({ error_code: 'NOT_FOUND' });
    expect(await page('acme', sessionId, 10, 'x')).toMatchObject({ error_code: 'MALFORMED_REQUEST' });
  });

  it('reads large events a few at a time: an answer is one record', async () => {
    const { session_id: sessionId } = (await post(gateway, acme, { message: 'x'.repeat(400_000) })).body;
    const turns = [newId(), newId(), newId()];
    for (const turn of turns)
      await fixture.publish('acme', sessionId, [finalEvent(turn, 'y'.repeat(300_000))]);
    // Longer than any answer can be: its place is told, without it.
    await fixture.publish('acme', sessionId, [finalEvent(newId(), 'z'.repeat(870_000))]);
    await waitFor(
      () => fixture.db.query('select from gateway.session_events where session_id = $1', [sessionId]),
      (rows) => rows.length === 4,
      { label: 'the events' },
    );
    const { rows, pages } = await whole(sessionId, 500);
    expect(rows.map(({ kind }) => kind)).toEqual(['message', 'event', 'event', 'event', 'event']);
    expect(rows.at(-1)).toMatchObject({ left_out_bytes: expect.any(Number) });
    expect(pages).toBeGreaterThan(2);
  });

  it('does a piece of upkeep for the asking, and refuses one that it does not know', async () => {
    await fixture.db.query(
      `insert into gateway.idempotency_keys (tenant, route, key, body_hash, event_id, answer, created_at)
         select 'acme', 'POST /v1', n::text, '', gen_random_uuid(), '{}', now() - interval '2 days'
           from generate_series(1, 5) n`,
    );
    const ask = (task: string, limit: number) =>
      askUpkeep(asker, { owner: 'gateway', task, limit, deadlineMs: 5_000 });
    expect(await ask('idempotency_keys', 3)).toMatchObject({ done: 3, more: true });
    expect(await ask('idempotency_keys', 3)).toMatchObject({ done: 2, more: false });
    for (const task of ['session_events', 'sessions', 'notifications'])
      expect(await ask(task, 100)).toMatchObject({ owner: 'gateway', task, done: 0, more: false });
    const refused = await ask('nothing', 1).catch((error: unknown) => error);
    expect(isFault(refused, 'NOT_FOUND')).toBe(true);
  });
});
