import { delegationTasksSchema, type TaskSubmitted } from '@signalbox/contracts/delegation-tasks';
import type { TaskUpdated } from '@signalbox/contracts/delegation-updates';
import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { Kafka, logLevel } from 'kafkajs';
import type { Cell, Reading } from '../cell.ts';
import { bounded } from '../conversation.ts';
import { cpuMsOf, latencyOf } from '../measure.ts';
import { type BenchStack, startFloor } from '../stack.ts';

const tasks = 3_000;
const concurrency = 32;
/** Records of one send. */
const atOnce = 250;

/**
 * Tasks of the handler `echo`, from the record that submits them to the one that says that they are completed, beside
 * graphile-worker with empty jobs on the same Postgres. Both are given all of it at once. A task is a row, a status that is told twice over Kafka,
 * and a result that is kept; a job is a row.
 */
export function delegationCell(options: { stack: BenchStack; pairs: number }): Cell {
  const { stack } = options;
  return {
    id: 'delegation',
    title: `delegation: ${tasks} tasks at once, ${concurrency} run beside each other`,
    pairs: options.pairs,
    settle: () => stack.settle(),
    variants: [
      { name: 'signalbox', run: () => runTasks(stack) },
      { name: 'floor: graphile-worker', run: () => runJobs(stack) },
    ],
    aims: [{ figure: 'rate', of: 'floor: graphile-worker', bound: '>=', value: 0.5 }],
  };
}

async function runTasks(stack: BenchStack): Promise<Reading> {
  const kafka = new Kafka({ brokers: [stack.kafka], logLevel: logLevel.NOTHING });
  const [producer, consumer] = [
    kafka.producer({ allowAutoTopicCreation: false }),
    kafka.consumer({ groupId: `bench-${newId()}`, allowAutoTopicCreation: false }),
  ];
  const sentAt = new Map<string, number>();
  const latencies: number[] = [];
  const faults: string[] = [];
  const done = Promise.withResolvers<void>();
  await producer.connect();
  await consumer.connect();
  await consumer.subscribe({ topics: ['delegation.updates'], fromBeginning: false });
  const joined = Promise.withResolvers<void>();
  consumer.on(consumer.events.GROUP_JOIN, () => joined.resolve());
  const seen = new Map<string, TaskUpdated>();
  await consumer.run({
    eachBatch: async ({ batch, resolveOffset }) => {
      for (const { key, value, offset } of batch.messages) {
        resolveOffset(offset);
        const update: TaskUpdated = JSON.parse(value?.toString() ?? '{}');
        const from = sentAt.get(update.task_id);
        if (from === undefined) continue;
        const before = seen.get(update.task_id);
        if (before !== undefined && update.seq <= before.seq)
          faults.push(`${key}: seq ${update.seq} after ${before.seq}`);
        seen.set(update.task_id, update);
        if (update.status !== 'completed') continue;
        latencies.push(performance.now() - from);
        if (update.result?.at !== update.task_id) faults.push(`${key}: not its own result`);
        if (latencies.length === tasks) done.resolve();
      }
    },
  });
  await joined.promise;
  // A consumer of a new group begins at the end of the log once it has asked where that is.
  await new Promise((resolve) => setTimeout(resolve, 1_500));

  const rowsBefore = await stack.rowsWritten();
  const cpuBefore = cpuMsOf(stack.pids());
  const startedAt = performance.now();
  for (let from = 0; from < tasks; from += atOnce) {
    const messages = Array.from({ length: Math.min(atOnce, tasks - from) }, () => {
      const id = newId();
      sentAt.set(id, performance.now());
      return taskRecord(stack.tenant, id);
    });
    await producer.send({ topic: 'delegation.tasks', messages });
  }
  await bounded(done.promise, 120_000, `${tasks} tasks to complete`);
  const elapsedSeconds = (performance.now() - startedAt) / 1_000;
  const cpuMs = cpuMsOf(stack.pids()) - cpuBefore;
  const rows = (await stack.rowsWritten()) - rowsBefore;
  await Promise.all([producer.disconnect(), consumer.disconnect()]);
  const { p50Ms, p99Ms } = latencyOf(latencies);
  return {
    figures: {
      rate: tasks / elapsedSeconds,
      p50Ms,
      p99Ms,
      cpuUsPerOp: (cpuMs * 1_000) / tasks,
      rowsPerTask: rows / tasks,
    },
    faults: faults.slice(0, 10),
  };
}

function taskRecord(tenant: string, id: string) {
  const value: TaskSubmitted = {
    task_id: id,
    target: { handler: 'echo' },
    input: { at: id },
    priority: 5,
    depth: 0,
    submitted_at: new Date().toISOString(),
  };
  return {
    key: idKey(tenant, id),
    value: JSON.stringify(value),
    headers: {
      tenant_id: tenant,
      event_id: newId(),
      event_type: 'task.submitted',
      schema: delegationTasksSchema,
      reply_to: 'bench',
      correlation_id: id,
    },
  };
}

async function runJobs(stack: BenchStack): Promise<Reading> {
  const done = Promise.withResolvers<number>();
  const floor = await startFloor(
    'graphile-jobs',
    { DATABASE_OWNER_URL: stack.ownerUrl, JOBS: String(tasks), CONCURRENCY: String(concurrency) },
    ({ event, ms }) => {
      if (event === 'jobs.done') done.resolve(ms ?? Number.NaN);
    },
  );
  const cpuBefore = cpuMsOf([floor.pid]);
  const ms = await bounded(done.promise, 120_000, `${tasks} jobs to run`);
  const cpuMs = cpuMsOf([floor.pid]) - cpuBefore;
  await floor.close();
  return { figures: { rate: (tasks * 1_000) / ms, cpuUsPerOp: (cpuMs * 1_000) / tasks }, faults: [] };
}
