import { fault } from '@signalbox/faults/fault';
import { expect, it } from 'vitest';
import { createPersonaCache } from './persona-cache.ts';

function subject() {
  const personas = new Set(['assistant']);
  const state = { at: 0, loads: 0, away: false };
  const cache = createPersonaCache(
    async () => {
      state.loads += 1;
      if (state.away) throw fault('DATABASE_UNAVAILABLE', 'away');
      return [...personas];
    },
    () => state.at,
  );
  return { cache, personas, state };
}

it('asks once for many and answers from memory', async () => {
  const { cache, state } = subject();
  const all = await Promise.all(Array.from({ length: 50 }, () => cache.has('acme', 'assistant')));
  expect(all.every(Boolean)).toBe(true);
  expect(await cache.has('acme', 'assistant')).toBe(true);
  expect(state.loads).toBe(1);
});

it('looks again for an unknown one, but not at every request', async () => {
  const { cache, personas, state } = subject();
  expect(await cache.has('acme', 'new')).toBe(false);
  personas.add('new');
  expect(await cache.has('acme', 'new')).toBe(false);
  expect(state.loads).toBe(1);
  state.at += 600;
  expect(await cache.has('acme', 'new')).toBe(true);
});

it('serves what it knows while the database is away, and says so when it knows nothing', async () => {
  const { cache, state } = subject();
  expect(await cache.has('acme', 'assistant')).toBe(true);
  state.away = true;
  state.at += 60_000;
  expect(await cache.has('acme', 'assistant')).toBe(true);
  expect(await cache.has('acme', 'unknown')).toBe(false);
  await expect(cache.has('globex', 'assistant')).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
});
