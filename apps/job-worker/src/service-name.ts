export const serviceName = 'job-worker';
