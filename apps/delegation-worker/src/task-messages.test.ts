import { isId } from '@signalbox/contracts/ids';
import { expect, it } from 'vitest';
import { cancelTurnMessage, turnIds, turnMessage } from './task-messages.ts';
import type { TaskPayload } from './task-payload.ts';

const id = '01997d5e-0000-7000-8000-000000000002';
const payload: TaskPayload = {
  event_id: '01997d5e-0000-7000-8000-000000000001',
  task: {
    ...{ task_id: id, target: { persona_id: 'p' }, input: { message: 'x' }, priority: 5, depth: 0 },
    submitted_at: '2026-01-01T00:00:00.000Z',
  },
};

it('asks for the same turn at every try, for one of its own for each tenant, and ends that one', () => {
  const [first, again] = [1, 2].map(() => turnMessage('acme', payload, 'p', 'x'));
  expect(again?.eventId).toBe(first?.eventId);
  expect(again?.key).toBe(first?.key);
  const of = (tenant: string) => Object.values(turnIds(tenant, id));
  expect(new Set([...of('acme'), ...of('globex')].filter(isId)).size).toBe(6);
  const { turnId } = turnIds('acme', id);
  expect(first?.value).toMatchObject({ turn_id: turnId });
  expect(cancelTurnMessage('acme', payload, 'why')).toMatchObject({
    key: first?.key,
    value: { turn_id: turnId },
  });
});
