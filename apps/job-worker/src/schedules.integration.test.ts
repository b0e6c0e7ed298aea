import { existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness, tenant } from '../test/jobs-harness.ts';

const dayMs = 86_400_000;
/** The one schedule whose own tick does not come while this runs. */
const compaction = 'memory-replicator.memory_compaction';
let harness: Harness;
let first: SpawnedService;
let second: SpawnedService;
/** Pieces of memory compaction that were asked for. */
let compactions = 0;

beforeAll(async () => {
  harness = await startHarness();
  harness.upkeep.set(compaction, async () => {
    compactions += 1;
    return { done: 7, more: false, detail: { bytes_saved: 100 } };
  });
  // Its last five daily ticks had nobody to run them.
  await harness.database.query(
    `INSERT INTO graphile_worker._private_known_crontabs (identifier, known_since, last_execution)
     VALUES ('memory-replicator.memory_compaction', now() - interval '30 days', now() - interval '5 days 1 minute')`,
  );
  const env = {
    MEMORY_COMPACTION_ENABLED: 'true',
    NOTIFICATIONS_JANITOR_ENABLED: 'false',
    JOB_UPKEEP_ROWS: '10',
  };
  [first, second] = await Promise.all([harness.start(env), harness.start(env)]);
});
afterAll(async () => {
  await Promise.all([first?.[Symbol.asyncDispose](), second?.[Symbol.asyncDispose]()]);
  await harness?.close();
});

/** No job of a schedule waits or runs. */
const quiet = () =>
  waitFor(
    () => harness.database.query(`SELECT id FROM graphile_worker.jobs WHERE task_identifier = 'scheduled'`),
    (rows) => rows.length === 0,
    { label: 'no scheduled jobs' },
  );

test('a schedule that was missed five times is caught up once, and by one of two replicas', async () => {
  const run = await harness.run(compaction, 'done');
  await quiet();
  expect(compactions).toBe(1);
  expect(Number(run?.done)).toBe(7);
  expect(Date.now() - Number(run?.tick)).toBeLessThan(dayMs);
  const runs = [first, second].flatMap(({ logs }) =>
    logs.filter(
      ({ event, task, outcome }) => event === 'job.finished' && task === compaction && outcome === 'done',
    ),
  );
  expect(runs).toHaveLength(1);
});

test('upkeep is asked for until there is no more, each piece from where the one before ended', async () => {
  const asked: unknown[] = [];
  harness.upkeep.set(compaction, async ({ limit, resume }) => {
    asked.push({ limit, resume });
    const at = Number(resume?.at ?? 0) + 1;
    return at < 4 ? { done: 10, more: true, resume: { at } } : { done: 3, more: false };
  });
  const at = new Date();
  await harness.tick(compaction, at);
  const run = await harness.run(compaction, 'done', at);
  expect(asked).toEqual(
    [undefined, { at: 1 }, { at: 2 }, { at: 3 }].map((resume) => ({ limit: 10, resume })),
  );
  expect(run).toMatchObject({ done: '33', resume: null });
  // The same tick again, as after a crash behind its end: nothing is left to do.
  await harness.tick(compaction, at);
  await quiet();
  expect(asked).toHaveLength(4);
});

test('an owner that is away is a failed run, told, and holds up nobody', async () => {
  const finished: string[] = [];
  harness.upkeep.set('gateway.idempotency_keys', async () => {
    finished.push('gateway');
    return { done: 1, more: false };
  });
  await harness.tick('tool-executor.work_rows');
  await harness.tick('gateway.idempotency_keys');
  await harness.run('gateway.idempotency_keys', 'done');
  expect((await harness.run('tool-executor.work_rows', 'failed'))?.error).toMatch(/^OWNER_TIMEOUT: /);
  const { schedules } = await harness.ask(tenant, {});
  expect(schedules).toContainEqual(
    expect.objectContaining({ name: 'tool-executor.work_rows', outcome: 'failed', last_success_at: null }),
  );
  // Back again, the next tick is one like any other.
  harness.upkeep.set('tool-executor.work_rows', async () => ({ done: 2, more: false }));
  const at = await harness.tick('tool-executor.work_rows');
  expect((await harness.run('tool-executor.work_rows', 'done', at))?.error).toBeNull();
  const success = await waitFor(
    () => first.metric('schedule_last_success_timestamp', { schedule: 'tool-executor.work_rows' }),
    (value) => value !== undefined,
  );
  expect(Math.abs(Number(success) - Date.now() / 1_000)).toBeLessThan(60);
});

test('an owner that refuses is a failed run with its words', async () => {
  harness.upkeep.set(compaction, async () => {
    throw new TypeError('a defect of the owner');
  });
  await harness.tick(compaction);
  expect((await harness.run(compaction, 'failed'))?.error).toMatch(/^INTERNAL_ERROR: /);
});

test('expired files and what dead runs left behind are removed, others are left alone', async () => {
  const folder = join(harness.exportDir, tenant);
  mkdirSync(folder, { recursive: true });
  const file = (name: string, ageMs: number) => {
    writeFileSync(join(folder, name), 'x');
    const at = new Date(Date.now() - ageMs);
    utimesSync(join(folder, name), at, at);
    return name;
  };
  const kept = [
    file(`${newId()}.ndjson`, dayMs - 60_000),
    file(`.${newId()}.3.tmp`, dayMs - 60_000),
    file('somebody-elses.txt', 9 * dayMs),
  ];
  const expired = Array.from({ length: 12 }, () => file(`${newId()}.ndjson`, dayMs + 120_000));
  expired.push(file(`.${newId()}.1.tmp`, dayMs + 120_000));
  await harness.run('job-worker.export_files', 'done', await harness.tick('job-worker.export_files'));
  expect(readdirSync(folder).sort()).toEqual(kept.sort());
  expect(expired.some((name) => existsSync(join(folder, name)))).toBe(false);
});

test('jobs are forgotten a week and a day after their end, whoever asked for them', async () => {
  const add = (of: string, age: string) =>
    harness.database.query(
      `INSERT INTO job_worker.jobs (tenant, job_id, kind, arguments, status, requested_at, finished_at)
       VALUES ($1, gen_random_uuid(), 'export_memory', '{}', 'done', now() - $2::interval, now() - $2::interval)`,
      [of, age],
    );
  for (let n = 0; n < 12; n += 1) await add(n % 2 === 0 ? 'acme' : 'globex', '8 days 1 minute');
  await add('globex', '7 days 23 hours');
  await harness.run('job-worker.jobs', 'done', await harness.tick('job-worker.jobs'));
  expect((await harness.ask('acme', {})).jobs).toEqual([]);
  expect((await harness.ask('globex', {})).jobs).toHaveLength(1);
});

test('a job whose process died with it every time ends as failed, and its tenant is told', async () => {
  const { sessionId } = harness.session(1);
  const release = harness.holdPages();
  const jobId = await harness.request('export_session', { session_id: sessionId });
  await release.asked;
  // As after the last of its runs: there are no more, and its lock is taken off.
  await harness.database.query(
    `UPDATE graphile_worker._private_jobs SET attempts = max_attempts WHERE key = 'job:acme:' || $1::text`,
    [jobId],
  );
  await harness.database.query(
    `SELECT graphile_worker.force_unlock_workers(array(SELECT locked_by FROM graphile_worker.jobs))`,
  );
  await harness.tick('job-worker.lost_jobs');
  expect((await harness.ended(jobId)).error).toMatch(/^RETRY_BUDGET_SPENT: /);
  release();
  const told = await harness.told(jobId);
  expect(told.map(({ kind }) => kind)).toEqual(['export.failed']);
  // The run that was thought dead cannot end the job a second time.
  await waitFor(
    () =>
      [first, second]
        .flatMap(({ logs }) => logs)
        .find((each) => each.event === 'job.finished' && each.outcome === 'lost'),
    (found) => found !== undefined,
  );
  expect(await harness.told(jobId)).toHaveLength(1);
});

test('a tenant whose job was ended under its runner is not kept waiting: the lock of its queue is taken off', async () => {
  const { sessionId } = harness.session(1, 'initech');
  const answer = harness.holdPages((asked) => asked.sessionId === sessionId);
  const ended = await harness.request('export_session', { session_id: sessionId }, { of: 'initech' });
  await answer.asked;
  // As one that stood still does when it wakes: it ends the job that another runs by now.
  await harness.database.query(
    `DELETE FROM graphile_worker._private_jobs WHERE key = 'job:initech:' || $1::text`,
    [ended],
  );
  const next = await harness.request('export_session', { session_id: sessionId }, { of: 'initech' });
  answer();
  expect((await harness.ended(ended, 'initech')).status).toBe('done');
  expect((await harness.ended(next, 'initech')).status).toBe('done');
});

test('connections that break, the listening one among them, end neither the process nor a job that runs', async () => {
  const { sessionId } = harness.session(1);
  const answer = harness.holdPages((asked) => asked.sessionId === sessionId);
  const running = await harness.request('export_session', { session_id: sessionId });
  await answer.asked;
  const cut = await harness.database.query<{ ended: boolean }>(
    `SELECT pg_terminate_backend(pid) AS ended FROM pg_stat_activity
     WHERE datname = current_database() AND application_name LIKE 'job-worker%'`,
  );
  expect(cut.length).toBeGreaterThan(3);
  answer();
  expect(await harness.ended(running)).toMatchObject({ status: 'done', attempts: 1 });
  const other = harness.session(1);
  const later = await harness.request('export_session', { session_id: other.sessionId });
  expect((await harness.ended(later)).status).toBe('done');
  expect([first.exit(), second.exit()]).toEqual([undefined, undefined]);
});

test('a flag that is off takes its schedule away, and a job of it that was left over does nothing', async () => {
  let asked = 0;
  harness.upkeep.set('gateway.notifications', async () => {
    asked += 1;
    return { done: 1, more: false };
  });
  await harness.tick('gateway.notifications');
  await quiet();
  expect(asked).toBe(0);
  const skipped = [first, second].flatMap(({ logs }) =>
    logs.filter(({ event }) => event === 'schedule.skipped'),
  );
  expect(skipped.map(({ schedule }) => schedule)).toEqual(['gateway.notifications']);
  const names = (await harness.ask(tenant, {})).schedules?.map(({ name }) => name);
  expect(names).toContain(compaction);
  expect(names).not.toContain('gateway.notifications');
});
