import { isId, newId } from '@signalbox/contracts/ids';
import { jobsCommandsSchema } from '@signalbox/contracts/jobs';
import { idKey } from '@signalbox/contracts/keys';
import { memoryRecallRequestsSchema } from '@signalbox/contracts/memory-recall';
import { isFaultCode } from '@signalbox/faults/catalog';
import { type Fault, fault } from '@signalbox/faults/fault';
import type { Asker } from '@signalbox/messaging/asker';
import { askAgain } from './ask-again.ts';

export interface PageSources {
  readonly jobs: Pick<Asker<'jobs.commands', 'jobs.results'>, 'ask'>;
  readonly memories: Pick<Asker<'memory.recall.requests', 'memory.recall.results'>, 'ask'>;
  readonly askTimeoutMs: number;
}

export interface ExportOf {
  readonly tenant: string;
  readonly kind: string;
  readonly arguments: Record<string, unknown>;
  readonly signal: AbortSignal;
}

type Pages = AsyncIterable<readonly object[]>;
type Page = { readonly rows: readonly object[]; readonly next: string | undefined };

/** The owner may send fewer: its answer has a bound in bytes. */
const pageRows = 500;
const idForm = /^[a-z0-9][a-z0-9_.-]{0,63}$/;

/**
 * The rows of an export, a page at a time, asked of the service that owns them. Faults: those of `ask`, what the owner
 * refuses with (NOT_FOUND: no such session), VALIDATION_ERROR for arguments that no export has.
 */
export function exportPages(sources: PageSources, of: ExportOf): Pages {
  switch (of.kind) {
    case 'export_session':
      return sessionPages(sources, of);
    case 'export_memory':
      return memoryPages(sources, of);
    default:
      throw fault('VALIDATION_ERROR', `there is no job of the kind ${of.kind}`);
  }
}

function sessionPages({ jobs, askTimeoutMs }: PageSources, of: ExportOf): Pages {
  const sessionId = sessionOf(of.arguments);
  if (sessionId === undefined) throw fault('VALIDATION_ERROR', 'session_id is missing');
  return allPages(of.signal, async (after) => {
    const answer = await jobs.ask({
      ...{ tenant: of.tenant, key: idKey(of.tenant, newId()), eventType: 'session.page_asked' },
      ...{ schema: jobsCommandsSchema, deadlineMs: askTimeoutMs, sessionId, signal: of.signal },
      value: { session_id: sessionId, limit: pageRows, ...(after === undefined ? {} : { after }) },
    });
    if (answer.eventType === 'session.page')
      return { rows: answer.value.rows, next: answer.value.next_after };
    throw answer.eventType === 'jobs.refused' ? refusal(answer.value) : notAnAnswer(answer.eventType);
  });
}

function memoryPages({ memories, askTimeoutMs }: PageSources, of: ExportOf): Pages {
  const sessionId = sessionOf(of.arguments);
  const namespaces = namespacesOf(of.arguments);
  return allPages(of.signal, async (after) => {
    const answer = await memories.ask({
      ...{ tenant: of.tenant, key: idKey(of.tenant, newId()), eventType: 'memory.page_requested' },
      ...{ schema: memoryRecallRequestsSchema, deadlineMs: askTimeoutMs, signal: of.signal },
      value: {
        limit: pageRows,
        ...(after === undefined ? {} : { after }),
        ...(namespaces === undefined ? {} : { namespaces }),
        ...(sessionId === undefined ? {} : { session_id: sessionId }),
      },
    });
    if (answer.eventType === 'memory.page')
      return { rows: answer.value.memories, next: answer.value.next_after };
    throw answer.eventType === 'memory.refused' ? refusal(answer.value) : notAnAnswer(answer.eventType);
  });
}

/** Until a page names no next one. One that names itself as the next would be read for ever. */
async function* allPages(
  signal: AbortSignal,
  page: (after: string | undefined) => Promise<Page>,
): AsyncGenerator<readonly object[]> {
  let after: string | undefined;
  do {
    signal.throwIfAborted();
    const from = after;
    const { rows, next } = await askAgain(() => page(from));
    if (next !== undefined && next === after)
      throw fault('INTERNAL_ERROR', `the page after ${after} names itself as the next`);
    yield rows;
    after = next;
  } while (after !== undefined);
}

function sessionOf(given: Record<string, unknown>): string | undefined {
  const id = given.session_id;
  if (id === undefined) return undefined;
  if (!isId(id)) throw fault('VALIDATION_ERROR', 'session_id is not an id');
  return id;
}

function namespacesOf(given: Record<string, unknown>): string[] | undefined {
  const { namespaces } = given;
  if (namespaces === undefined) return undefined;
  const names: unknown[] = Array.isArray(namespaces) ? namespaces : [];
  const read = names.filter((name): name is string => typeof name === 'string' && idForm.test(name));
  if (read.length === 0 || read.length !== names.length || read.length > 16) {
    throw fault('VALIDATION_ERROR', 'namespaces is not a list of 1 to 16 names');
  }
  return read;
}

function refusal({ error_code, message }: { error_code: string; message: string }): Fault {
  return fault(isFaultCode(error_code) ? error_code : 'INTERNAL_ERROR', message);
}

function notAnAnswer(eventType: string): Fault {
  return fault('INTERNAL_ERROR', `${eventType} is no answer to what was asked`);
}
