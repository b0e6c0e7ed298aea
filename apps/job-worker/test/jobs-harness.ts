import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { newId } from '@signalbox/contracts/ids';
import { type Job, jobsCommandsSchema, type SessionPage } from '@signalbox/contracts/jobs';
import { idKey } from '@signalbox/contracts/keys';
import type { NotificationPosted } from '@signalbox/contracts/ui-notifications';
import { readValue } from '@signalbox/contracts/validate';
import { fault } from '@signalbox/faults/fault';
import { openAnswerer } from '@signalbox/messaging/answerer';
import { openAsker } from '@signalbox/messaging/asker';
import { type UpkeepTask, upkeepAnswer } from '@signalbox/messaging/upkeep';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import type { SpawnedService } from '@signalbox/testkit/service';
import { openSurroundings, type StartOptions } from '@signalbox/testkit/surroundings';
import { waitFor } from '@signalbox/testkit/wait';

export const tenant = 'acme';
export const secret = 'a secret of this test that is long enough';

/** The sessions that the gateway has, and how it answers when it is asked for a page. */
export interface Gateway {
  /** Rows by `tenant session`. */
  readonly sessions: Map<string, object[]>;
  /** Waited for before each page is answered. */
  beforePage: (asked: { sessionId: string; after: string | undefined }) => Promise<unknown>;
  /** Pages that were asked for. */
  pages: number;
}

const pageRows = 2;

/** The rest of the world as job-worker sees it: the gateway that asks and answers, who owns memories, what is told. */
export async function startHarness() {
  const exportDir = mkdtempSync(join(tmpdir(), 'signalbox-exports-'));
  const around = await openSurroundings({
    topics: [
      'jobs.commands',
      'jobs.results',
      'ui.notifications',
      'memory.recall.requests',
      'memory.recall.results',
    ],
    service: 'gateway',
    env: {
      DATABASE_POOL_SIZE: '2',
      DATABASE_MAX_OVERFLOW: '3',
      EXPORT_DIR: exportDir,
      EXPORT_SIGNING_SECRET: secret,
      JOB_WORKER_LEASE_MS: '2000',
      JOB_ASK_TIMEOUT_MS: '1500',
    },
  });
  const { env, database, messaging } = around;
  const parts = { messaging, service: 'gateway', log: silentLog, metrics: silentMetrics };
  const gateway: Gateway = {
    sessions: new Map(),
    beforePage: async () => undefined,
    pages: 0,
  };
  /** By `owner.task`. */
  const upkeep = new Map<string, UpkeepTask>();
  openAnswerer({
    ...parts,
    ...{ requests: 'jobs.commands', results: 'jobs.results', refused: 'jobs.refused', concurrency: 8 },
    answers: {
      'session.page_asked': async ({ tenant: of, value: { session_id: sessionId, after } }) => {
        gateway.pages += 1;
        await gateway.beforePage({ sessionId, after });
        const rows = gateway.sessions.get(`${of} ${sessionId}`);
        if (rows === undefined) throw fault('NOT_FOUND', 'no such session');
        const from = Number(after ?? 0);
        const next = from + pageRows;
        const value: SessionPage = { rows: rows.slice(from, next).map((row) => ({ ...row })) };
        if (next < rows.length) value.next_after = String(next);
        return { eventType: 'session.page', value };
      },
      // Of all owners, each by its tasks; one without any is away, and one that is asked is looked up anew.
      'upkeep.requested': {
        accepts: ({ value }) => [...upkeep.keys()].some((name) => name.startsWith(`${value.owner}.`)),
        answer: (record, signal) => {
          const { owner } = record.value;
          const tasks = [...upkeep].filter(([name]) => name.startsWith(`${owner}.`));
          const byTask = tasks.map(([name, run]) => [name.slice(owner.length + 1), run] as const);
          return upkeepAnswer(owner, Object.fromEntries(byTask)).answer(record, signal);
        },
      },
    },
  });
  const memories = new Map<string, object[]>();
  openAnswerer({
    ...{ ...parts, service: 'memory-replicator', refused: 'memory.refused' },
    ...{ requests: 'memory.recall.requests', results: 'memory.recall.results' },
    answers: {
      'memory.page_requested': async ({ tenant: of, value: { namespaces } }) => ({
        eventType: 'memory.page',
        value: {
          memories: readMemories(memories.get(of) ?? []).filter(
            ({ namespace }) => namespaces === undefined || namespaces.includes(namespace),
          ),
        },
      }),
    },
  });
  const asker = openAsker({ ...parts, requests: 'jobs.commands', results: 'jobs.results' });
  const notifications = around.read('ui.notifications');

  async function request(
    kind: string,
    args: Record<string, unknown>,
    { of = tenant, jobId = newId(), traceparent }: { of?: string; jobId?: string; traceparent?: string } = {},
  ): Promise<string> {
    await around.send({
      ...{ topic: 'jobs.commands', tenant: of, key: idKey(of, jobId), eventType: 'job.requested' },
      headers: { traceparent },
      value: { job_id: jobId, kind, arguments: args, requested_at: new Date().toISOString() },
    });
    return jobId;
  }

  async function ask(of: string, value: { job_id?: string; before?: string; limit?: number }) {
    const answer = await asker.ask({
      ...{ tenant: of, key: idKey(of, newId()), eventType: 'jobs.asked', schema: jobsCommandsSchema },
      ...{ deadlineMs: 10_000, value: { limit: 50, ...value } },
    });
    if (answer.eventType !== 'jobs.listed') throw new Error(JSON.stringify(answer));
    return answer.value;
  }

  return {
    env,
    database,
    exportDir,
    gateway,
    upkeep,
    memories,
    request,
    ask,
    /** A session with so many events in the test's gateway. */
    session(count: number, of = tenant): { sessionId: string; rows: object[] } {
      const sessionId = newId();
      const rows = Array.from({ length: count }, (_, n) => ({ n, text: `event ${n}` }));
      gateway.sessions.set(`${of} ${sessionId}`, rows);
      return { sessionId, rows };
    },
    /** Pages (of these sessions) are answered only after this was called; `asked` resolves when one was asked for. */
    holdPages(held: (asked: { sessionId: string }) => boolean = () => true) {
      const released = Promise.withResolvers<void>();
      const asked = Promise.withResolvers<void>();
      const before = gateway.beforePage;
      gateway.beforePage = async (page) => {
        if (!held(page)) return before(page);
        asked.resolve();
        return released.promise;
      };
      return Object.assign(() => released.resolve(), { asked: asked.promise });
    },
    /** What people were told of a job, once there is something. */
    told: (jobId: string): Promise<NotificationPosted[]> =>
      waitFor(
        () =>
          notifications
            .flatMap(({ value }) => readValue('ui.notifications', 'notification.posted', value) ?? [])
            .filter(({ data }) => data?.job_id === jobId),
        (found) => found.length > 0,
        { label: `notification of job ${jobId}` },
      ),
    /** Waits until the job has ended. */
    async ended(jobId: string, of = tenant, timeoutMs = 20_000): Promise<Job> {
      const rows = await waitFor(
        () =>
          database.query<{ status: string }>(
            'SELECT status FROM job_worker.jobs WHERE tenant = $1 AND job_id = $2 AND finished_at IS NOT NULL',
            [of, jobId],
          ),
        (found) => found.length === 1,
        { timeoutMs, label: `end of job ${jobId}` },
      );
      const [job] = (await ask(of, { job_id: jobId })).jobs;
      if (job === undefined || rows.length === 0) throw new Error('the job is not listed');
      return job;
    },
    /** The outcome of a job, looked up where it is stored. */
    async stored(jobId: string): Promise<{ status: string; attempts: number } | undefined> {
      const sql = 'SELECT status, attempts FROM job_worker.jobs WHERE job_id = $1';
      return (await database.query<{ status: string; attempts: number }>(sql, [jobId]))[0];
    },
    /** What is left of an export: names of its files, and the lines behind the header of the whole one. */
    exported(jobId: string, of = tenant): { names: string[]; lines: unknown[] } {
      const names = readdirSync(join(exportDir, of)).filter((name) => name.includes(jobId));
      const text = readFileSync(join(exportDir, of, `${jobId}.ndjson`), 'utf8');
      const lines: unknown[] = text
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
      return { names, lines: lines.slice(1) };
    },
    /** Adds the job that a tick of a schedule adds. */
    async tick(schedule: string, at = new Date()): Promise<Date> {
      await database.query(
        `SELECT graphile_worker.add_job('scheduled', json_build_object('schedule', $1::text, '_cron',
           json_build_object('ts', $2::text, 'backfilled', false)), queue_name => 'schedule ' || $1::text,
           job_key => 'schedule:' || $1::text, max_attempts => 5)`,
        [schedule, at.toISOString()],
      );
      return at;
    },
    /** The last run of a schedule, for this tick or a later one, once it has ended as expected. */
    run: (schedule: string, outcome: string, since = new Date(0), timeoutMs = 15_000) =>
      waitFor(
        async () =>
          (
            await database.query<{ outcome: string; done: string; error: string | null; tick: Date }>(
              'SELECT outcome, done, error, tick, resume FROM job_worker.schedules WHERE name = $1',
              [schedule],
            )
          )[0],
        (row) => row?.outcome === outcome && row.tick >= since,
        { timeoutMs, label: `${schedule} ${outcome}` },
      ),
    async start(
      more: Record<string, string> = {},
      { ready = true }: StartOptions = {},
    ): Promise<SpawnedService> {
      const service = await around.start('job-worker', more, { ready });
      if (ready) await service.log('jobs.started');
      return service;
    },
    async close(): Promise<void> {
      await around.close();
      rmSync(exportDir, { recursive: true, force: true });
    },
  };
}

type MemoryPage = NonNullable<ReturnType<typeof readPage>>;

function readPage(value: unknown) {
  return readValue('memory.recall.results', 'memory.page', value);
}

function readMemories(rows: object[]): MemoryPage['memories'] {
  return readPage({ memories: rows })?.memories ?? [];
}

export type Harness = Awaited<ReturnType<typeof startHarness>>;
