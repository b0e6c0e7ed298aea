import { fault } from '@signalbox/faults/fault';
import { expect, it } from 'vitest';
import { createAcceptLoad } from './accept-load.ts';

function subject(counts: () => Promise<ReadonlyMap<string, number>>) {
  let full = false;
  let at = 0;
  const failures: unknown[] = [];
  const asked: string[][] = [];
  const load = createAcceptLoad({
    what: 'turns',
    maxOpen: 3,
    isOutboxFull: () => full,
    countOpen: (tenants) => {
      asked.push([...tenants]);
      return counts();
    },
    onFailure: (error) => failures.push(error),
    now: () => at,
  });
  return { load, failures, asked, fill: () => (full = true), later: (ms: number) => (at += ms) };
}

it('adds what was accepted here to what the database counted', async () => {
  const { load } = subject(async () => new Map([['acme', 2]]));
  load.admit('acme').settle(false);
  await load.refresh();
  load.admit('acme').settle(true);
  expect(() => load.admit('acme')).toThrowError(
    expect.objectContaining({ code: 'TENANT_BUSY', retryAfterMs: 1000 }),
  );
  load.admit('globex');
});

it('counts what is under way: a burst does not pass while its statements are slow', () => {
  const { load } = subject(async () => new Map());
  const places = [load.admit('acme'), load.admit('acme'), load.admit('acme')];
  expect(() => load.admit('acme')).toThrowError(expect.objectContaining({ code: 'TENANT_BUSY' }));
  places[0]?.settle(false);
  places[1]?.settle(true);
  load.admit('acme');
  expect(() => load.admit('acme')).toThrowError(expect.objectContaining({ code: 'TENANT_BUSY' }));
});

it('does not count twice what was accepted before the count began, nor lose what came during it', async () => {
  let answer: (counts: Map<string, number>) => void = () => undefined;
  const { load } = subject(() => new Promise((resolve) => (answer = resolve)));
  load.admit('acme').settle(true);
  load.admit('acme').settle(true);
  const refresh = load.refresh();
  load.admit('acme').settle(true); // during the count: may or may not be in it
  answer(new Map([['acme', 1]])); // one of the first two has ended meanwhile
  await refresh;
  load.admit('acme').settle(true);
  expect(() => load.admit('acme')).toThrowError(expect.objectContaining({ code: 'TENANT_BUSY' }));
});

it('keeps the last counts while the database is away', async () => {
  let away = false;
  const { load, failures } = subject(async () => {
    if (away) throw fault('DATABASE_UNAVAILABLE', 'away');
    return new Map([['acme', 3]]);
  });
  load.admit('acme').settle(false);
  await load.refresh();
  away = true;
  await load.refresh();
  expect(failures).toHaveLength(1);
  expect(() => load.admit('acme')).toThrow();
});

it('refuses everybody while the outbox is full', () => {
  const { load, fill } = subject(async () => new Map());
  fill();
  expect(() => load.admit('acme')).toThrowError(
    expect.objectContaining({ code: 'OUTBOX_FULL', status: 503 }),
  );
});

it('counts only tenants that have sent something lately', async () => {
  const { load, asked, later } = subject(async () => new Map());
  load.admit('acme').settle(true);
  later(40_000);
  load.admit('globex').settle(true);
  later(40_000);
  await load.refresh();
  expect(asked).toEqual([['globex']]);
});
