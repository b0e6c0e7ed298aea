import { describe, expect, it } from 'vitest';
import { startServer } from '../test/running-server.ts';
import { createRateLimit } from './rate-limit.ts';

describe('createRateLimit', () => {
  it('lets as many through as the limit says, in each window, each key for itself', () => {
    let at = 60_000;
    const limit = createRateLimit({ name: 't', limit: 3, windowMs: 60_000, now: () => at });
    expect([1, 2, 3, 4].map(() => limit.take('a').allowed)).toEqual([true, true, true, false]);
    expect(limit.take('b')).toEqual({ allowed: true, limit: 3, remaining: 2, resetSeconds: 60 });
    at = 119_000;
    expect(limit.take('a')).toMatchObject({ allowed: false, remaining: 0, resetSeconds: 1 });
    at = 120_000;
    expect(limit.take('a')).toMatchObject({ allowed: true, remaining: 2 });
  });

  it('is turned off by a limit of 0', () => {
    const limit = createRateLimit({ name: 't', limit: 0, windowMs: 1000 });
    expect(limit.take('a').allowed).toBe(true);
  });

  it('keeps no more keys than it may, forgetting the one not seen for longest', () => {
    const limit = createRateLimit({ name: 't', limit: 1, windowMs: 60_000, maxKeys: 2, now: () => 0 });
    limit.take('a');
    limit.take('b');
    limit.take('a');
    limit.take('c');
    expect(limit.take('a').allowed).toBe(false);
    expect(limit.take('b').allowed).toBe(true);
  });

  it('answers 429 with the headers that say when to come back', async () => {
    const limit = createRateLimit({ name: 't', limit: 2, windowMs: 60_000 });
    await using running = await startServer({
      routes: (server) => {
        server.get('/limited', (_request, reply) => {
          limit.enforce(reply, 'acme');
          reply.send({});
        });
      },
    });
    const get = () => fetch(`${running.url}/limited`);
    const first = await get();
    expect(first.status).toBe(200);
    expect(first.headers.get('ratelimit-limit')).toBe('2');
    expect(first.headers.get('ratelimit-remaining')).toBe('1');
    await get();
    const third = await get();
    expect(third.status).toBe(429);
    expect(third.headers.get('ratelimit-remaining')).toBe('0');
    expect(third.headers.get('retry-after')).toBe(third.headers.get('ratelimit-reset'));
    expect(await third.json()).toMatchObject({ error_code: 'RATE_LIMITED' });
  });
});
