import { catalog } from '@signalbox/faults/catalog';
import { asFault, type Fault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import { writeExport } from './export-file.ts';
import { exportUrl } from './export-link.ts';
import { exportPages, type PageSources } from './export-pages.ts';
import type { BegunJob, JobEnd, JobStore } from './job-store.ts';
import { type EndedJob, exportFailed, exportReady } from './notifications.ts';
import type { JobOutcome } from './run-job.ts';

export interface ExportSettings {
  readonly exportDir: string;
  readonly exportPublicUrl: string;
  readonly exportSigningSecret: string;
  readonly exportLinkTtlSeconds: number;
  readonly exportMaxRows: number;
  readonly exportMaxMb: number;
  readonly exportTenantMaxMb: number;
  readonly maxFailures: number;
}

export interface RunExportParts {
  readonly store: JobStore;
  readonly sources: PageSources;
  readonly settings: ExportSettings;
  /** Whether this process still holds its jobs. */
  readonly held: () => boolean;
}

/** Parts of ours that are away: no failure of the job, however long they are. */
const away: ReadonlySet<string> = new Set(['DATABASE_UNAVAILABLE', 'KAFKA_UNAVAILABLE']);
/** Refusals that the same request will get again. */
const forGood: ReadonlySet<string> = new Set([
  'NOT_FOUND',
  'FORBIDDEN',
  'VALIDATION_ERROR',
  'BODY_TOO_LARGE',
]);

/**
 * Runs a requested job to one end: a file with a link, or a clear error; either way people of the tenant are told, in the
 * transaction that ends it. A run that dies leaves the job to the next one, which begins the file anew. What may pass is
 * tried again (the error is thrown on to the queue) until the job has failed `maxFailures` times.
 */
export function exportRunner({ store, sources, settings, held }: RunExportParts) {
  async function written(job: BegunJob, signal: AbortSignal): Promise<JobEnd> {
    const { tenant, jobId, kind, attempt } = job;
    const { rows, bytes } = await writeExport({
      ...{ folder: settings.exportDir, tenant, jobId, attempt, held },
      header: {
        export: kind,
        version: 1,
        ...{ tenant, job_id: jobId, arguments: job.arguments, requested_at: job.requestedAt.toISOString() },
      },
      pages: exportPages(sources, { tenant, kind, arguments: job.arguments, signal }),
      maxRows: settings.exportMaxRows,
      maxBytes: settings.exportMaxMb * 1_048_576,
      maxTenantBytes: settings.exportTenantMaxMb * 1_048_576,
    });
    failPoint('export.published');
    const expires = Math.floor(Date.now() / 1_000) + settings.exportLinkTtlSeconds;
    const expiresAt = new Date(expires * 1_000);
    const link = { tenant, jobId, expires };
    const url = exportUrl(settings.exportPublicUrl, link, settings.exportSigningSecret);
    const result = { url, expires_at: expiresAt.toISOString(), rows, bytes };
    return { status: 'done', result, notification: exportReady(job, result, expiresAt) };
  }

  async function failed(job: BegunJob, why: Fault): Promise<JobOutcome> {
    const error = wordsOf(why);
    if (!forGood.has(why.code) && job.failures + 1 < settings.maxFailures) {
      await store.failedOnce(job, error);
      throw why;
    }
    await store.end(job, failedEnd(job, error));
    return 'failed';
  }

  return async (tenant: string, jobId: string, signal: AbortSignal): Promise<JobOutcome> => {
    const job = await store.begin(tenant, jobId);
    if (job === undefined) return 'skipped';
    try {
      const end = await written(job, signal);
      await store.end(job, end);
      return 'done';
    } catch (error) {
      const why = asFault(error);
      // Given back, taken over, or perhaps ended: the next run will see.
      if (signal.aborted || why.code === 'LEASE_LOST' || away.has(why.code)) throw error;
      return failed(job, why);
    }
  };
}

/** The end of a job that failed. */
export function failedEnd(job: EndedJob, error: string): JobEnd {
  return { status: 'failed', error, notification: exportFailed(job, error) };
}

/** What the tenant may read of it. */
function wordsOf({ code, message }: Fault): string {
  return `${code}: ${code === 'INTERNAL_ERROR' ? catalog.INTERNAL_ERROR.title : message}`;
}
