import { fault } from '@signalbox/faults/fault';
import { expect, test } from 'vitest';
import { breaksConnection, classifyError, databaseFault, isUnavailable, sqlState } from './classify-error.ts';

const fromServer = (code: string, severity = 'ERROR') => Object.assign(new Error('x'), { code, severity });
const fromSocket = (code: string) => Object.assign(new Error('x'), { code });

test('each error has one class', () => {
  const table: [unknown, string][] = [
    [fromSocket('ECONNREFUSED'), 'unavailable'],
    [fromSocket('EPIPE'), 'unavailable'],
    [fromServer('57P01', 'FATAL'), 'unavailable'],
    [fromServer('57P03', 'FATAL'), 'unavailable'],
    [fromServer('53300', 'FATAL'), 'unavailable'],
    [fromServer('53100'), 'unavailable'],
    [fromServer('08006'), 'unavailable'],
    [fromServer('57014'), 'unavailable'],
    [fromServer('25006'), 'unavailable'],
    [fromServer('28P01', 'FATAL'), 'unavailable'],
    [fromServer('40001'), 'conflict'],
    [fromServer('40P01'), 'conflict'],
    [fromServer('42P01'), 'schema'],
    [fromServer('42883'), 'schema'],
    [fromServer('SB001'), 'lease-lost'],
    [fromServer('23505'), 'ours'],
    [fromServer('22P02'), 'ours'],
    [new Error('Query read timeout'), 'unavailable'],
    [new Error('Connection terminated unexpectedly'), 'unavailable'],
    [new Error('timeout exceeded when trying to connect'), 'unavailable'],
    [new AggregateError([fromSocket('ECONNREFUSED')]), 'unavailable'],
    [new AggregateError([new Error('x')]), 'ours'],
    [new TypeError('x'), 'ours'],
    ['a string', 'ours'],
    [undefined, 'ours'],
    [fault('DATABASE_UNAVAILABLE', 'x'), 'unavailable'],
    [fault('LEASE_LOST', 'x'), 'lease-lost'],
    [fault('NOT_FOUND', 'x'), 'ours'],
  ];
  for (const [error, kind] of table) expect(classifyError(error), String(error)).toBe(kind);
});

test('what a server answered leaves the connection whole; what it did not, breaks it', () => {
  expect(breaksConnection(fromServer('23505'))).toBe(false);
  expect(breaksConnection(fromServer('57014'))).toBe(false);
  expect(breaksConnection(fromServer('25P03', 'FATAL'))).toBe(true);
  expect(breaksConnection(fromSocket('ECONNRESET'))).toBe(true);
  expect(breaksConnection(new Error('Query read timeout'))).toBe(true);
  expect(breaksConnection(fault('LEASE_LOST', 'x'))).toBe(false);
  expect(breaksConnection('x')).toBe(false);
});

test('a fault tells the outcome: an answer means nothing was written, silence does not', () => {
  expect(databaseFault(fromServer('40001'), 'unknown').details).toMatchObject({ outcome: 'none' });
  expect(databaseFault(fromSocket('ECONNRESET'), 'unknown')).toMatchObject({
    code: 'DATABASE_UNAVAILABLE',
    details: { outcome: 'unknown' },
  });
  expect(databaseFault(fromServer('57P01', 'FATAL'), 'unknown').details).toMatchObject({
    outcome: 'unknown',
  });
  const known = fault('NOT_FOUND', 'x');
  expect(databaseFault(known, 'none')).toBe(known);
  expect(sqlState(databaseFault(fromServer('23505'), 'none'))).toBe('23505');
  expect(isUnavailable(databaseFault(fromServer('40P01'), 'none'))).toBe(true);
  expect(isUnavailable(fromServer('23505'))).toBe(false);
});
