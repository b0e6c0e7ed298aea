import type { TaskTarget } from '@signalbox/contracts/delegation-tasks';
import type { MemoryRole } from '@signalbox/contracts/fields';

/** What a persona recalls before a turn and remembers after it. */
export interface MemorySettings {
  readonly recall: boolean;
  /** Where it looks. */
  readonly namespaces: readonly string[];
  /** Memories that it is given at most. */
  readonly limit: number;
  /** Where it writes. */
  readonly namespace: string;
  /** What of a finished turn becomes memories; nothing by default. */
  readonly write: readonly WrittenRole[];
  /** How long they are recalled; for ever by default. */
  readonly ttlDays: number | undefined;
}

/** Those of a turn; a note is written by hand. */
export type WrittenRole = Exclude<MemoryRole, 'note'>;

const namespaceForm = /^[a-z0-9][a-z0-9_.-]{0,63}$/;
const writable: readonly WrittenRole[] = ['user', 'assistant', 'tool'];
const defaultLimit = 5;
const mostNamespaces = 16;
const mostMemories = 50;
const mostTtlDays = 36_500;
const mostTargets = 32;
const longestName = 128;

/** The column `memory` of a persona. What is not of its form is left out, as in its limits. */
export function memorySettings(column: unknown): MemorySettings {
  const given = fieldsOf(column);
  const namespace = isNamespace(given.namespace) ? given.namespace : 'default';
  const namespaces = listOf(given.namespaces).filter(isNamespace).slice(0, mostNamespaces);
  return {
    recall: given.recall === true,
    namespaces: namespaces.length > 0 ? namespaces : [namespace],
    limit: wholeNumber(given.limit, mostMemories) ?? defaultLimit,
    namespace,
    write: writable.filter((role) => listOf(given.write).includes(role)),
    ttlDays: wholeNumber(given.ttl_days, mostTtlDays),
  };
}

/** The column `delegates` of a persona: whom its turns may give tasks to. */
export function delegateTargets(column: unknown): readonly TaskTarget[] {
  return listOf(column)
    .flatMap((each): TaskTarget[] => {
      const { persona_id, handler } = fieldsOf(each);
      if (isName(persona_id)) return [{ persona_id }];
      return isName(handler) ? [{ handler }] : [];
    })
    .slice(0, mostTargets);
}

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : {};
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function isNamespace(value: unknown): value is string {
  return typeof value === 'string' && namespaceForm.test(value);
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && value.length > 0 && value.length <= longestName;
}

function wholeNumber(value: unknown, most: number): number | undefined {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 1
    ? Math.min(value, most)
    : undefined;
}
