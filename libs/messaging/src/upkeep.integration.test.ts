import { newId } from '@signalbox/contracts/ids';
import { jobsCommandsSchema } from '@signalbox/contracts/jobs';
import { idKey } from '@signalbox/contracts/keys';
import { fault } from '@signalbox/faults/fault';
import { silentMetrics } from '@signalbox/telemetry/silent';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { codeOf, Questions } from '../test/questions.ts';
import { Stack } from '../test/stack.ts';
import { openAnswerer } from './answerer.ts';
import { openAsker } from './asker.ts';
import { answerUpkeep, askUpkeep, type UpkeepPiece, type UpkeepTasks, upkeepAnswer } from './upkeep.ts';

const requests = 'jobs.commands';
const results = 'jobs.results';
const metrics = silentMetrics;

let stack: Stack;
let services: Questions;
beforeAll(async () => {
  stack = await Stack.create(requests, results);
  services = new Questions(stack);
});
afterAll(() => stack?.drop());
afterEach(() => services.closeAll());

function jobWorker() {
  const service = services.newService('job-worker');
  const { messaging, log } = services.process(service);
  const asker = openAsker({ messaging, service, requests, results, log, metrics });
  const ask = (
    owner: string,
    task: string,
    more: { resume?: Record<string, unknown>; deadlineMs?: number } = {},
  ) => askUpkeep(asker, { owner, task, limit: 100, deadlineMs: 30_000, ...more });
  return { messaging, asker, ask };
}

function owner(tasks: UpkeepTasks): string {
  const service = services.newService('owner');
  const { messaging, log } = services.process(service);
  answerUpkeep({ messaging, service, tasks, log, metrics });
  return service;
}

describe('upkeep that only the owner of a table can do', () => {
  it('is done by the service that is asked and by no other, piece by piece', async () => {
    const pieces: Omit<UpkeepPiece, 'signal'>[] = [];
    const asked = owner({
      async rows({ limit, resume }) {
        pieces.push({ limit, resume });
        return resume === undefined
          ? { done: limit, more: true, resume: { after: 'x' } }
          : { done: 7, more: false, detail: { bytes: 3 } };
      },
    });
    const others: string[] = [];
    owner({
      async rows() {
        others.push('asked');
        return { done: 0, more: false };
      },
    });
    const { ask } = jobWorker();
    const first = await ask(asked, 'rows');
    expect(first).toEqual({ owner: asked, task: 'rows', done: 100, more: true, resume: { after: 'x' } });
    expect(await ask(asked, 'rows', { resume: first.resume ?? {} })).toMatchObject({
      ...{ done: 7, more: false, detail: { bytes: 3 } },
    });
    expect(pieces).toEqual([
      { limit: 100, resume: undefined },
      { limit: 100, resume: { after: 'x' } },
    ]);
    expect(others).toEqual([]);
  });

  it('an unknown task, one that fails, one that runs already and an owner that is away are told apart', async () => {
    const go = Promise.withResolvers<void>();
    let runs = 0;
    const asked = owner({
      async fails() {
        throw fault('DATABASE_UNAVAILABLE', 'no database');
      },
      async slow() {
        runs += 1;
        await go.promise;
        return { done: 1, more: false };
      },
    });
    const { ask } = jobWorker();
    expect(await ask(asked, 'unknown').catch(codeOf)).toBe('NOT_FOUND');
    expect(await ask(asked, 'fails').catch(codeOf)).toBe('DATABASE_UNAVAILABLE');
    const slow = ask(asked, 'slow');
    await waitFor(
      () => runs,
      (n) => n === 1,
    );
    expect(await ask(asked, 'slow').catch(codeOf)).toBe('CONFLICT');
    go.resolve();
    expect((await slow).done).toBe(1);
    expect((await ask(asked, 'slow')).done).toBe(1);
    expect(await ask('nobody', 'rows', { deadlineMs: 300 }).catch(codeOf)).toBe('OWNER_TIMEOUT');
  });

  it('one consumer takes upkeep, other questions, and records that are no questions', async () => {
    const service = services.newService('several');
    const { messaging, log } = services.process(service);
    const jobs = new Set<unknown>();
    let away = true;
    openAnswerer({
      ...{ messaging, service, requests, results, log, metrics, refused: 'jobs.refused' },
      answers: {
        'upkeep.requested': upkeepAnswer(service, { rows: async () => ({ done: 1, more: false }) }),
        'jobs.asked': async () => ({ eventType: 'jobs.listed', value: { jobs: [] } }),
      },
      others: {
        eventTypes: ['job.requested'],
        async handler(records) {
          const fails = away;
          away = false;
          if (fails) throw fault('DATABASE_UNAVAILABLE', 'away once');
          for (const { value } of records) jobs.add(value);
        },
      },
    });
    const { ask, asker, messaging: sender } = jobWorker();
    const eventId = newId();
    const job = {
      job_id: eventId,
      kind: 'export_memory',
      arguments: {},
      requested_at: new Date().toISOString(),
    };
    await sender.producer.direct({
      ...{ topic: requests, key: idKey('acme', eventId), value: job },
      headers: {
        ...{ tenant_id: 'acme', event_id: eventId, event_type: 'job.requested', schema: jobsCommandsSchema },
      },
    });
    expect((await ask(service, 'rows')).done).toBe(1);
    const listed = await asker.ask({
      ...{ tenant: 'acme', key: idKey('acme', newId()), eventType: 'jobs.asked', deadlineMs: 10_000 },
      ...{ schema: jobsCommandsSchema, value: { limit: 5 } },
    });
    expect(listed).toEqual({ eventType: 'jobs.listed', value: { jobs: [] } });
    // What is no question is not lost with a store that is away.
    await waitFor(
      () => [...jobs],
      (list) => list.length === 1,
    );
    expect([...jobs]).toEqual([job]);
  });
});
