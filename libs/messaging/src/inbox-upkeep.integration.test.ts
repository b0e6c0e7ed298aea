import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Process, Stack } from '../test/stack.ts';
import { inboxKeptMs, pruneInbox } from './inbox-upkeep.ts';

let stack: Stack;
let process: Process;
beforeAll(async () => {
  stack = await Stack.create('conversation.inbound');
  process = stack.process();
});
afterAll(() => stack?.drop());

describe('forgetting what the inbox knows', () => {
  it('goes over tenants and consumers, in pieces, and leaves what a topic may still bring again', async () => {
    expect(inboxKeptMs).toBe(8 * 86_400_000);
    const enter = (count: number, age: string) =>
      stack.database.query(
        `insert into messaging.inbox (tenant, consumer, event_id, handled_at)
         select case when n % 2 = 0 then 'acme' else 'globex' end, 'consumer-' || n % 3, gen_random_uuid(), now() - $2::interval
         from generate_series(1, $1::int) n`,
        [count, age],
      );
    await enter(25, '9 days');
    await enter(10, '7 days 23 hours');
    const prune = () => pruneInbox(process.database, { limit: 10 });
    expect([await prune(), await prune(), await prune(), await prune()]).toEqual([10, 10, 5, 0]);
    const left = await stack.database.query<{ count: string }>('select count(*) from messaging.inbox');
    expect(left).toEqual([{ count: '10' }]);
  });

  it('of two callers one does it, so that neither waits for the other', async () => {
    const other = stack.openDatabase();
    try {
      const gone = await other.transaction(async (tx) => {
        await tx.query("select messaging.inbox_prune('1 hour', 5)");
        return pruneInbox(process.database, { olderThanMs: 3_600_000, limit: 5 });
      });
      expect(gone).toBe(0);
    } finally {
      await other.close(1_000);
    }
  });

  it('is job-worker’s alone', async () => {
    const allowed = await stack.database.query<{ role: string }>(
      `select r.rolname as role from pg_roles r
       where r.rolname like 'signalbox\\_%' and r.rolname not in ('signalbox_queue', 'signalbox_owner') and not r.rolcanlogin
         and has_function_privilege(r.oid, 'messaging.inbox_prune(interval, int)', 'execute') order by 1`,
    );
    expect(allowed).toEqual([{ role: 'signalbox_job_worker' }]);
  });
});
