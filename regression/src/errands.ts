import { randomBytes, randomUUID } from 'node:crypto';
import { waitFor } from '@signalbox/testkit/wait';
import type { Cluster, Tenant } from './cluster.ts';
import { send } from './request.ts';
import { persistently } from './talk.ts';

/** What clients want besides conversations: memories by hand, tasks, exports. */
export interface ErrandTraffic {
  /** A third of them is replaced by a second version, a third deleted. */
  readonly memories: number;
  /** A third each: a handler, a chain of two, a turn of a persona. */
  readonly tasks: number;
  readonly exports: number;
  /** Pause between two errands, in milliseconds. */
  readonly pauseMs: number;
}

export interface ErrandFigures {
  readonly memories: number;
  readonly tasks: number;
  readonly exports: number;
  readonly retries: number;
  /** From a task's 202 to its end. */
  readonly longestTaskMs: number;
}

export interface Errands {
  /** Resolves when each errand has its 202. */
  run(traffic: ErrandTraffic): Promise<void>;
  /** Waits for what was promised and throws with every promise that was broken. */
  check(timeoutMs?: number): Promise<ErrandFigures>;
}

interface WrittenMemory {
  readonly tenant: Tenant;
  readonly id: string;
  readonly text: string;
  /** Accepted writes and deletes of it: its version in the end. */
  readonly version: number;
  readonly deleted: boolean;
}

interface SubmittedTask {
  readonly tenant: Tenant;
  readonly id: string;
  readonly token: string;
  readonly acceptedAtMs: number;
}

const ended = new Set(['completed', 'failed', 'cancelled', 'expired']);

export function createErrands(cluster: Cluster): Errands {
  // What is found in it was written here, by this case alone.
  const namespace = `errands-${randomBytes(4).toString('hex')}`;
  const memories: WrittenMemory[] = [];
  const tasks: SubmittedTask[] = [];
  const exports: { tenant: Tenant; id: string }[] = [];
  let retried = 0;

  /** A good client's write: under one Idempotency-Key until it is answered. */
  async function write(
    base: string,
    path: string,
    tenant: Tenant,
    body: object | undefined,
    method: 'POST' | 'DELETE' = 'POST',
  ): Promise<Record<string, unknown>> {
    const headers = { 'idempotency-key': randomUUID() };
    const { answer, retries } = await persistently(() =>
      send(`${base}${path}`, { key: tenant.key, method, headers, ...(body && { body }) }),
    );
    retried += retries;
    if (answer.status !== 202) throw new Error(`${path} was answered ${answer.status}: ${answer.body}`);
    return JSON.parse(answer.body);
  }

  async function remember(tenant: Tenant, index: number): Promise<void> {
    const { url } = cluster.balancer;
    const token = randomBytes(6).toString('hex');
    const text = `errand ${token} in its first version`;
    const { memory_id: id } = await write(url, '/v1/memory', tenant, { text, namespace });
    const memory = { tenant, id: String(id), text, version: 1, deleted: false };
    if (index % 3 === 1) {
      const next = `errand ${token} in its second version`;
      await write(url, '/v1/memory', tenant, { text: next, namespace, memory_id: id });
      memories.push({ ...memory, text: next, version: 2 });
    } else if (index % 3 === 2) {
      await write(url, `/v1/memory/${id}`, tenant, undefined, 'DELETE');
      memories.push({ ...memory, text: '', version: 2, deleted: true });
    } else memories.push(memory);
  }

  async function submit(tenant: Tenant, index: number): Promise<void> {
    const token = `task-${randomBytes(6).toString('hex')}`;
    const echo = { handler: 'echo', input: { text: token } };
    const child = { target: { handler: 'echo' }, input: { text: token } };
    const payloads = [
      echo,
      { handler: 'sequence', input: { tasks: [child, child] } },
      { persona_id: 'plain', message: `say ${token}` },
    ];
    const id = randomUUID();
    const body = { task_id: id, payload: payloads[index % payloads.length] };
    await write(cluster.taskBalancer.url, '/v1/delegation/task', tenant, body);
    tasks.push({ tenant, id, token, acceptedAtMs: performance.now() });
  }

  async function check(timeoutMs = 60_000): Promise<ErrandFigures> {
    const faults: string[] = [];
    const say = (what: string) => faults.push(what);
    const replica = await replicated(cluster, namespace, memories, timeoutMs).catch((error: unknown) => {
      say(String(error));
      return [];
    });
    for (const { tenant, id, version, text, deleted } of memories) {
      const row = replica.find((each) => each.memory_id === id && each.tenant === tenant.tenant);
      if (row === undefined) say(`memory ${id} is not in the replica`);
      else if (row.version !== version || row.deleted !== deleted || (!deleted && row.text !== text))
        say(`memory ${id} should be version ${version} "${text}", is ${JSON.stringify(row)}`);
    }
    const known = new Set(memories.map(({ id }) => id));
    for (const row of replica)
      if (!known.has(row.memory_id)) say(`memory ${row.memory_id} was never written`);
    const tookMs: number[] = [];
    for (const task of tasks) {
      const { endedMs, problems } = await taskEnds(cluster, task, timeoutMs);
      tookMs.push(endedMs);
      for (const problem of problems) say(`task ${task.id} (${task.token}): ${problem}`);
    }
    for (const { tenant, id } of exports)
      for (const problem of await exportEnds(cluster, tenant, id, timeoutMs)) say(`export ${id}: ${problem}`);
    if (faults.length > 0)
      throw new Error(`errands were not kept (${faults.length}):\n${faults.slice(0, 20).join('\n')}`);
    return {
      memories: memories.length,
      tasks: tasks.length,
      exports: exports.length,
      retries: retried,
      longestTaskMs: Math.round(Math.max(0, ...tookMs)),
    };
  }

  return {
    async run(traffic) {
      const pause = () => new Promise((resolve) => setTimeout(resolve, traffic.pauseMs));
      const series = async (count: number, errand: (tenant: Tenant, index: number) => Promise<void>) => {
        for (let index = 0; index < count; index += 1) {
          await errand(cluster.tenants[index % 2 === 0 ? 0 : 1], index);
          await pause();
        }
      };
      await Promise.all([
        series(traffic.memories, remember),
        series(traffic.tasks, submit),
        series(traffic.exports, async (tenant) => {
          const { job_id: id } = await write(cluster.balancer.url, '/v1/memory/exports', tenant, {});
          exports.push({ tenant, id: String(id) });
        }),
      ]);
    },
    check,
  };
}

interface ReplicaRow {
  readonly tenant: string;
  readonly memory_id: string;
  readonly version: number;
  readonly text: string;
  readonly deleted: boolean;
}

/** The replica's rows of the errands, once as many versions are there as were written. */
async function replicated(
  cluster: Cluster,
  namespace: string,
  memories: readonly WrittenMemory[],
  timeoutMs: number,
): Promise<ReplicaRow[]> {
  const versions = memories.reduce((sum, { version }) => sum + version, 0);
  return await waitFor(
    () =>
      cluster.database.query<ReplicaRow>(
        `select tenant, memory_id, version::int, coalesce(body, '') as text, deleted_at is not null as deleted
         from memory_replicator.memories m join memory_replicator.copies c on m.copy = c.live
         where namespace = $1 or memory_id = any($2::uuid[])`,
        [namespace, memories.map(({ id }) => id)],
      ),
    (rows) => rows.reduce((sum, { version }) => sum + version, 0) >= versions,
    { timeoutMs, intervalMs: 100, label: `${versions} versions of memories in the replica` },
  );
}

interface Task {
  readonly status: string;
  readonly result?: unknown;
}

/** How a task ended, as its caller sees it: by GET, and by the whole of its stream. */
async function taskEnds(cluster: Cluster, task: SubmittedTask, timeoutMs: number) {
  const { url } = cluster.taskBalancer;
  const problems: string[] = [];
  const path = `${url}/v1/delegation/task/${task.id}`;
  const read = async (): Promise<Task | undefined> => {
    const answer = await send(path, { key: task.tenant.key }).catch(() => undefined);
    return answer?.status === 200 ? JSON.parse(answer.body) : undefined;
  };
  const state = await waitFor(read, (found) => found !== undefined && ended.has(found.status), {
    timeoutMs,
    intervalMs: 100,
    label: `the end of task ${task.id}`,
  }).catch((error: unknown) => void problems.push(String(error)));
  const endedMs = performance.now() - task.acceptedAtMs;
  if (state === undefined) return { endedMs, problems };
  if (state.status !== 'completed') problems.push(`ended as ${JSON.stringify(state)}`);
  else if (!JSON.stringify(state.result).includes(task.token))
    problems.push(`its result is ${JSON.stringify(state.result)}`);
  const rows = await cluster.database.query<{ status: string; seq: number }>(
    `select data::jsonb ->> 'status' as status, (data::jsonb ->> 'seq')::int as seq
     from delegation_gateway.task_events where tenant = $1 and task_id = $2 and event_type = 'task.updated'
     order by epoch, position`,
    [task.tenant.tenant, task.id],
  );
  const ends = rows.filter(({ status }) => ended.has(status));
  if (ends.length !== 1) problems.push(`it has ${ends.length} ends: ${JSON.stringify(rows)}`);
  if (rows.some(({ seq }, at) => seq <= (rows[at - 1]?.seq ?? 0)))
    problems.push(`its updates went backwards: ${JSON.stringify(rows)}`);
  return { endedMs, problems };
}

/** An export ends once, with a file whose last line says that it is whole. */
async function exportEnds(
  cluster: Cluster,
  tenant: Tenant,
  id: string,
  timeoutMs: number,
): Promise<string[]> {
  const read = async (): Promise<{ status: string; result?: { url?: string } } | undefined> => {
    const answer = await send(`${cluster.balancer.url}/v1/jobs/${id}`, { key: tenant.key }).catch(
      () => undefined,
    );
    return answer?.status === 200 ? JSON.parse(answer.body) : undefined;
  };
  try {
    const job = await waitFor(read, (found) => found?.status === 'done' || found?.status === 'failed', {
      timeoutMs,
      intervalMs: 250,
      label: `the end of export ${id}`,
    });
    return job?.status === 'done' ? [] : [`ended as ${JSON.stringify(job)}`];
  } catch (error) {
    return [String(error)];
  }
}
